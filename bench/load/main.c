// SPDX-License-Identifier: Apache-2.0
//
// Load generator: the producers and subscribers of a relay, in one process.
//
// The program handles bytes, not protocols. Its options (load.h) state where to connect, the handshake,
// the bytes of a record, and their size at a subscriber. Therefore the same program measures every relay,
// without the cost of a client library. Each record is a separate write, as when a service emits it.
//
// Without a rate, producers write as fast as the window permits: the window limits the number of records
// that have been written but not received by the slowest subscriber. Without a window, a relay that drops
// records would be fed with records that are never received, and a relay that keeps them would run out of
// memory. Pending records are counted as lost if no record arrives for LOSS_TIMEOUT.
//
// With a rate, each record is written when it is due, even if earlier ones have not arrived. The program
// then never sleeps, so that latencies do not include its own wake-up time.
//
// Received data is split into frames of frame_size bytes. Every frame ends with a newline, either of the
// record or of the protocol. Data that does not fit is another line, such as a gap record or a PING: it is
// skipped up to its first newline and counted in "asides".
//
// Counting starts when every subscriber has received a record and the warm-up is over.

#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum {
	STAMP_DIGITS = 20,
	MAX_EVENTS = 256,
	READ_SIZE = 256 * 1024,
	MAX_WRITES = 64,      // between two checks for received data
	JOIN_INTERVAL_MS = 2, // between two records while subscribers join
};

#define SECOND 1000000000LL
#define LOSS_TIMEOUT (SECOND / 4)
#define LAST_JOIN_STAMP 1 // timestamp of the last record before the measurement

struct producer {
	int fd;
	bool writable;
	size_t left; // remaining bytes of a record that the socket accepted partially
};

struct subscriber {
	int fd;
	bool joined;
	uint64_t received;
	size_t have; // size of the partial frame
	char *partial;
};

static struct producer *producers;
static struct subscriber *subscribers;
static int epoll_fd;
static char *buffer;
static uint64_t sent, lost, asides;
static uint32_t *samples; // latencies in nanoseconds
static size_t sample_count, sample_capacity;
static bool sampling, joining;

void die(const char *message)
{
	fprintf(stderr, "load: %s%s%s\n", message, errno ? ": " : "", errno ? strerror(errno) : "");
	exit(1);
}

void *allocate(size_t number, size_t size)
{
	void *memory = calloc(number ? number : 1, size);
	if (!memory)
		die("no memory");
	return memory;
}

static int64_t clock_of(clockid_t clock)
{
	struct timespec now;
	if (clock_gettime(clock, &now))
		die("no clock");
	return now.tv_sec * SECOND + now.tv_nsec;
}

static int64_t now_ns(void)
{
	return clock_of(CLOCK_MONOTONIC);
}

// --- Connections --------------------------------------------------------------------------------

static void watch(int fd, uint32_t events, uint64_t number)
{
	struct epoll_event event = {.events = events, .data.u64 = number};
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void connect_all(void)
{
	epoll_fd = epoll_create1(0);
	for (long long n = 0; n < options.stalled; n++)
		connect_subscriber();
	for (long long n = 0; n < options.subscribers; n++) {
		struct subscriber *each = &subscribers[n];
		each->partial = allocate((size_t)options.frame_size, 1);
		each->fd = connect_subscriber();
		watch(each->fd, EPOLLIN, (uint64_t)(options.producers + n));
	}
	for (long long n = 0; n < options.producers; n++) {
		producers[n].fd = connect_producer();
		watch(producers[n].fd, EPOLLIN | EPOLLOUT | EPOLLET, (uint64_t)n);
	}
}

// --- Reading ------------------------------------------------------------------------------------

static int64_t stamp_in(const char *frame)
{
	int64_t stamp = 0;
	for (int n = 0; n < STAMP_DIGITS; n++)
		stamp = stamp * 10 + (frame[options.stamped_at + n] - '0');
	return stamp;
}

// Store the latency of a received record.
static void sample(const char *frame)
{
	int64_t latency = now_ns() - stamp_in(frame);
	if (sample_count == sample_capacity) {
		sample_capacity = sample_capacity ? 2 * sample_capacity : 1 << 20;
		samples = realloc(samples, sample_capacity * sizeof *samples);
		if (!samples)
			die("no memory");
	}
	samples[sample_count++] = latency < UINT32_MAX ? (uint32_t)latency : UINT32_MAX;
}

// Read once from a subscriber and count its frames.
static void consume(struct subscriber *each)
{
	size_t frame = (size_t)options.frame_size, at = 0;
	memcpy(buffer, each->partial, each->have);
	ssize_t got = recv(each->fd, buffer + each->have, READ_SIZE, 0);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		die("the relay closed the connection of a subscriber");
	size_t end = each->have + (size_t)got;
	while (end - at >= frame) {
		if (buffer[at + frame - 1] == '\n') {
			each->received++;
			if (sampling)
				sample(buffer + at);
			else if (joining)
				each->joined = stamp_in(buffer + at) == LAST_JOIN_STAMP;
			at += frame;
		} else {
			char *newline = memchr(buffer + at, '\n', frame - 1);
			if (!newline)
				die("received data that is neither a record nor a line");
			asides++;
			at = (size_t)(newline + 1 - buffer);
		}
	}
	each->have = end - at;
	memcpy(each->partial, buffer + at, each->have);
}

// Read and discard the answers to a producer, so that they do not fill the socket buffer.
static void discard_answers(int fd)
{
	ssize_t got;
	while ((got = recv(fd, buffer, READ_SIZE, 0)) > 0)
		;
	if (got == 0 || errno != EAGAIN)
		die("the relay closed the connection of a producer");
}

// Process the events of one epoll_wait; return whether a subscriber received data.
static bool poll_events(int timeout_ms)
{
	struct epoll_event events[MAX_EVENTS];
	int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, timeout_ms);
	bool arrived = false;
	for (int n = 0; n < ready; n++) {
		uint64_t number = events[n].data.u64;
		if (number >= (uint64_t)options.producers) {
			consume(&subscribers[number - (uint64_t)options.producers]);
			arrived = true;
			continue;
		}
		if (events[n].events & EPOLLOUT)
			producers[number].writable = true;
		if (events[n].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			discard_answers(producers[number].fd);
	}
	return arrived;
}

// --- Writing ------------------------------------------------------------------------------------

// Write a record, or the remainder of one; return whether it is complete.
static bool produce(struct producer *each)
{
	size_t size = each->left ? each->left : options.record.size;
	struct bytes record = options.record;
	ssize_t wrote = send(each->fd, record.data + record.size - size, size, MSG_NOSIGNAL);
	if (wrote < 0 && errno != EAGAIN)
		die("cannot write to the connection of a producer");
	if (wrote == (ssize_t)size) {
		each->left = 0;
		return true;
	}
	each->writable = false;
	if (wrote > 0)
		each->left = size - (size_t)wrote;
	return false;
}

static void put_stamp(int64_t stamp)
{
	for (int n = STAMP_DIGITS - 1; n >= 0; n--, stamp /= 10)
		options.record.data[options.stamp_at + n] = (char)('0' + stamp % 10);
}

// Return the number of records that the slowest subscriber has received.
static uint64_t slowest(void)
{
	uint64_t least = UINT64_MAX;
	for (long long n = 0; n < options.subscribers; n++)
		if (subscribers[n].received < least)
			least = subscribers[n].received;
	return options.subscribers ? least : sent;
}

static uint64_t delivered(void)
{
	uint64_t sum = 0;
	for (long long n = 0; n < options.subscribers; n++)
		sum += subscribers[n].received;
	return sum;
}

// Write up to MAX_WRITES records within the window, with each producer in turn; return whether a record was
// completed.
static bool produce_freely(void)
{
	static long long next;
	uint64_t most = options.window ? slowest() + (uint64_t)options.window : UINT64_MAX;
	if (options.count && most > (uint64_t)options.count)
		most = (uint64_t)options.count;
	bool wrote = false;
	for (long long tries = 0, n = 0; n < MAX_WRITES && tries < options.producers; n++) {
		struct producer *each = &producers[next];
		if (sent >= most && !each->left)
			break;
		if (each->writable && produce(each)) {
			sent++;
			wrote = true;
			tries = 0;
		} else {
			tries++;
		}
		next = (next + 1) % options.producers;
	}
	return wrote;
}

// Write the records that are due. All producers share the memory of the record and its timestamp, so a
// partially written record has to be completed before the next one.
static void produce_due(int64_t since)
{
	static long long next;
	int64_t now = now_ns();
	while ((__int128)sent * SECOND < (__int128)(now - since) * options.rate) {
		struct producer *each = &producers[next];
		if (!each->left)
			put_stamp(now_ns());
		if (!each->writable || !produce(each))
			return;
		sent++;
		next = (next + 1) % options.producers;
	}
}

// --- Measurement --------------------------------------------------------------------------------

static void reset_counters(void)
{
	sent = lost = asides = sample_count = 0;
	for (long long n = 0; n < options.subscribers; n++)
		subscribers[n].received = 0;
}

static bool all_joined(void)
{
	for (long long n = 0; n < options.subscribers; n++)
		if (!subscribers[n].joined)
			return false;
	return true;
}

static void write_one(struct producer *each)
{
	while (!each->writable || !produce(each))
		poll_events(JOIN_INTERVAL_MS);
}

// Write single records until every subscriber has received one, because some relays do not confirm a
// subscription. Then write a last one; when it has arrived, no record is pending.
static void join(void)
{
	int64_t deadline = now_ns() + TIMEOUT_S * SECOND;
	joining = true;
	for (bool last = false; !all_joined(); poll_events(JOIN_INTERVAL_MS)) {
		if (!last) {
			last = slowest() > 0;
			put_stamp(last ? LAST_JOIN_STAMP : 0);
			write_one(&producers[0]);
		}
		if (now_ns() > deadline)
			die("some subscribers have received no record");
	}
	joining = false;
}

// Send and receive for the duration, in seconds, or until "count" records have arrived.
static void run(double duration)
{
	int64_t since = now_ns(), last = since, end = since + (int64_t)(duration * 1e9), now;
	while ((now = now_ns()) < end) {
		if (options.rate)
			produce_due(since);
		bool busy = options.rate || produce_freely();
		if (poll_events(busy ? 0 : JOIN_INTERVAL_MS))
			last = now;
		if (options.count && sent == (uint64_t)options.count && slowest() == sent)
			return;
		if (!options.count && options.window && !options.rate && now - last > LOSS_TIMEOUT) {
			for (long long n = 0; n < options.subscribers; n++)
				lost += sent - subscribers[n].received;
			for (long long n = 0; n < options.subscribers; n++)
				subscribers[n].received = sent;
			last = now;
		}
	}
	if (options.count)
		die("not all records arrived in time");
}

static int compare(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
	return (a > b) - (a < b);
}

// Return the percentile in microseconds, by the nearest-rank method.
static double percentile(unsigned percent)
{
	if (!sample_count)
		return 0;
	size_t rank = (sample_count * percent + 99) / 100;
	return samples[rank ? rank - 1 : 0] / 1e3;
}

static void measure(void)
{
	clockid_t watched_clock = CLOCK_PROCESS_CPUTIME_ID;
	if (options.watch && clock_getcpuclockid((pid_t)options.watch, &watched_clock))
		die("cannot watch the process");
	uint64_t delivered_before = delivered() - lost, sent_before = sent;
	uint64_t lost_before = lost, asides_before = asides;
	int64_t own = clock_of(CLOCK_PROCESS_CPUTIME_ID), theirs = clock_of(watched_clock);
	int64_t since = now_ns();
	if (options.rate) { // With a rate, run() counts from its start.
		reset_counters();
		delivered_before = sent_before = lost_before = asides_before = 0;
	}
	sampling = options.rate > 0;
	run(options.count ? TIMEOUT_S : options.seconds);
	double taken = (double)(now_ns() - since) / 1e9;
	theirs = clock_of(watched_clock) - theirs;
	own = clock_of(CLOCK_PROCESS_CPUTIME_ID) - own;
	qsort(samples, sample_count, sizeof *samples, compare);
	printf("{\"seconds\": %.6f, \"sent\": %llu, \"delivered\": %llu, \"lost\": %llu, "
	       "\"asides\": %llu, \"cpu\": %.6f, \"own_cpu\": %.6f, \"samples\": %zu, "
	       "\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f}\n",
	       taken, (unsigned long long)(sent - sent_before),
	       (unsigned long long)(delivered() - lost - delivered_before),
	       (unsigned long long)(lost - lost_before),
	       (unsigned long long)(asides - asides_before), options.watch ? (double)theirs / 1e9 : 0,
	       (double)own / 1e9, sample_count, percentile(50), percentile(90), percentile(99));
}

// --- Main ---------------------------------------------------------------------------------------

static void prepare(void)
{
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	buffer = allocate(READ_SIZE + (size_t)options.frame_size, 1);
	producers = allocate((size_t)options.producers, sizeof *producers);
	subscribers = allocate((size_t)options.subscribers, sizeof *subscribers);
}

int main(int argc, char **argv)
{
	errno = 0;
	parse_options(argc, argv);
	prepare();
	connect_all();
	if (options.subscribers)
		join();
	reset_counters();
	if (options.warm_up > 0)
		run(options.warm_up);
	measure();
	return 0;
}
