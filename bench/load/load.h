// SPDX-License-Identifier: Apache-2.0
//
// Options, connections and helpers of the load generator; main.c describes the program.

#ifndef LOAD_H
#define LOAD_H

#include <stddef.h>
#include <stdint.h>

#define TIMEOUT_S 30 // for connecting, for answers, and for all records to arrive

struct bytes {
	size_t size;
	char *data;
};

// Command line options. Values of "bytes" are hexadecimal.
struct options {
	const char *publish_at, *subscribe_at; // path of a Unix socket, or port on 127.0.0.1
	// Sent after connecting, and the text in the answer that completes the handshake.
	struct bytes producer_hello, producer_answer, subscriber_hello, subscriber_answer;
	struct bytes subscriber_request; // sent after the handshake
	struct bytes record;             // what a producer writes for each record
	long long stamp_at;              // offset of the timestamp in the record as written
	long long frame_size;            // bytes of a record as it arrives
	long long stamped_at;            // offset of the timestamp in the record as it arrives
	long long producers, subscribers;
	long long stalled; // further subscribers, which never read
	long long window;  // maximum number of pending records; 0: no limit
	long long rate;    // records per second; 0: as fast as possible
	long long count;   // number of records to send; 0: send for "seconds"
	long long watch;   // PID of the relay, to measure its processor time; 0: none
	double seconds, warm_up;
};

extern struct options options;

// Set the options from the arguments.
void parse_options(int argc, char **argv);

// Connect as a producer or as a subscriber and complete the handshake; return a nonblocking socket.
int connect_producer(void);
int connect_subscriber(void);

// Print the message, and the text of errno if it is set, and exit with status 1.
_Noreturn void die(const char *message);

// Return zeroed memory, or exit if there is none.
void *allocate(size_t number, size_t size);

#endif
