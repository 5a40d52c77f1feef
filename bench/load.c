// SPDX-License-Identifier: Apache-2.0
//
// The load: producers and subscribers of whatever relays records, all of them in one process.
//
// It knows nothing of protocols but bytes. It is told where to connect, what to say first and what
// is in the answer to that, what a producer writes for each record, and how many bytes of it arrive
// at a subscriber. So every relay is measured by the same program, and no client's library along
// with it.
//
// Each record is a write of its own, as it is when a service emits it.
//
// As fast as it goes means: with at most so many records under way ("window"), that is written and
// not yet with the slowest subscriber. Without that a relay that drops would be fed with records
// that nobody gets, one that keeps everything would run out of memory, and neither figure would
// mean anything. What is on its way for LOSS_TIME without any arriving is counted as lost. With
// a rate instead, one record is written whenever it is due, whatever becomes of those before, and
// the load never sleeps, so that its own waking up is no part of a latency.
//
// How it counts: what arrives is taken in pieces of "frame" bytes, which end in a newline, as all
// frames do that are measured here: the record itself does, or what a protocol puts after it. A
// piece that does not has something else at its beginning, such as a gap record or a PING, up to
// its first newline. That is counted apart and skipped, and pieces go on from there.
//
// Nothing is counted before every subscriber got a record and the warm-up is over.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	STAMP_DIGITS = 20,
	EVENTS = 256,
	READ_SIZE = 256 * 1024,
	WRITES = 64, // before it is looked at what has arrived
	JOIN_MS = 2,     // between two records while subscribers join
	PATIENCE_S = 30, // for an answer, or for everything to arrive
};

#define SECOND 1000000000LL
#define LOSS_TIME (SECOND / 4)
#define LAST_OF_JOINING 1 // in place of the time

struct bytes {
	size_t size;
	char *data;
};

struct producer {
	int fd;
	bool writable;
	size_t left; // bytes of the record that the socket took only in part
};

struct subscriber {
	int fd;
	bool joined;
	uint64_t received;
	size_t have; // bytes of a frame that has arrived in part
	char *rest;
};

static const char *publish_at, *subscribe_at;
static struct bytes producer_hello, producer_answer, subscriber_hello, subscriber_answer;
static struct bytes subscriber_request, record;
static long long stamp_at = -1, frame_size, stamped_at = -1;
static long long producers_wanted = 1, subscribers_wanted = 1, stalled_wanted;
static long long window, rate, count, watched;
static double seconds = 1, warm_up;

static struct producer *producers;
static struct subscriber *subscribers;
static int epoll_fd;
static char *buffer;
static uint64_t sent, lost, asides;
static uint32_t *samples;
static size_t sample_count, sample_room;
static bool sampling, joining;

static void die(const char *what)
{
	fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
	exit(1);
}

static void *allocate(size_t number, size_t size)
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

// --- Connecting ---------------------------------------------------------------------------------

static int connect_to(const char *address)
{
	struct sockaddr_un path = {.sun_family = AF_UNIX};
	struct sockaddr_in port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool is_path = strchr(address, '/');
	int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0), on = 1;
	if (fd < 0)
		die("socket");
	struct timeval patience = {.tv_sec = PATIENCE_S};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	int failed;
	if (is_path) {
		if (strlen(address) >= sizeof path.sun_path)
			die("path too long");
		strcpy(path.sun_path, address);
		failed = connect(fd, (struct sockaddr *)&path, sizeof path);
	} else {
		port.sin_port = htons((uint16_t)atoi(address));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		failed = connect(fd, (struct sockaddr *)&port, sizeof port);
	}
	if (failed)
		die(address);
	return fd;
}

static void say(int fd, struct bytes what)
{
	if (what.size && write(fd, what.data, what.size) != (ssize_t)what.size)
		die("nobody listens to what is said first");
}

// Say hello, and read until the answer is there. What else has come with it is of no interest: no
// record has been written yet.
static void greet(int fd, struct bytes hello, struct bytes answer)
{
	char heard[8192];
	size_t size = 0;
	say(fd, hello);
	while (!memmem(heard, size, answer.data, answer.size)) {
		ssize_t got = read(fd, heard + size, sizeof heard - size);
		if (got <= 0)
			die("no answer as expected");
		size += (size_t)got;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int subscribe(void)
{
	int fd = connect_to(subscribe_at);
	greet(fd, subscriber_hello, subscriber_answer);
	say(fd, subscriber_request);
	return fd;
}

static void watch(int fd, uint32_t events, uint64_t number)
{
	struct epoll_event event = {.events = events, .data.u64 = number};
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void connect_all(void)
{
	epoll_fd = epoll_create1(0);
	for (long long n = 0; n < stalled_wanted; n++)
		subscribe();
	for (long long n = 0; n < subscribers_wanted; n++) {
		struct subscriber *each = &subscribers[n];
		each->rest = allocate((size_t)frame_size, 1);
		each->fd = subscribe();
		watch(each->fd, EPOLLIN, (uint64_t)(producers_wanted + n));
	}
	for (long long n = 0; n < producers_wanted; n++) {
		producers[n].fd = connect_to(publish_at);
		greet(producers[n].fd, producer_hello, producer_answer);
		watch(producers[n].fd, EPOLLIN | EPOLLOUT | EPOLLET, (uint64_t)n);
	}
}

// --- Reading ------------------------------------------------------------------------------------

static int64_t stamp_in(const char *frame)
{
	int64_t stamp = 0;
	for (int n = 0; n < STAMP_DIGITS; n++)
		stamp = stamp * 10 + (frame[stamped_at + n] - '0');
	return stamp;
}

static void sample(const char *frame)
{
	int64_t latency = now_ns() - stamp_in(frame);
	if (sample_count == sample_room) {
		sample_room = sample_room ? 2 * sample_room : 1 << 20;
		samples = realloc(samples, sample_room * sizeof *samples);
		if (!samples)
			die("no memory");
	}
	samples[sample_count++] = latency < UINT32_MAX ? (uint32_t)latency : UINT32_MAX;
}

static void consume(struct subscriber *each)
{
	size_t frame = (size_t)frame_size, at = 0;
	memcpy(buffer, each->rest, each->have);
	ssize_t got = recv(each->fd, buffer + each->have, READ_SIZE, 0);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		die("a subscriber's connection was ended");
	size_t end = each->have + (size_t)got;
	while (end - at >= frame) {
		if (buffer[at + frame - 1] == '\n') {
			each->received++;
			if (sampling)
				sample(buffer + at);
			else if (joining)
				each->joined = stamp_in(buffer + at) == LAST_OF_JOINING;
			at += frame;
		} else {
			char *newline = memchr(buffer + at, '\n', frame - 1);
			if (!newline)
				die("something arrived that is neither a record nor a line");
			asides++;
			at = (size_t)(newline + 1 - buffer);
		}
	}
	each->have = end - at;
	memcpy(each->rest, buffer + at, each->have);
}

// What relays answer to producers is of no interest, but it must not pile up.
static void drain(int fd)
{
	ssize_t got;
	while ((got = recv(fd, buffer, READ_SIZE, 0)) > 0)
		;
	if (got == 0 || errno != EAGAIN)
		die("a producer's connection was ended");
}

// Take what has arrived; whether anything has.
static bool turn(int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int number = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
	bool arrived = false;
	for (int n = 0; n < number; n++) {
		uint64_t who = events[n].data.u64;
		if (who >= (uint64_t)producers_wanted) {
			consume(&subscribers[who - (uint64_t)producers_wanted]);
			arrived = true;
			continue;
		}
		if (events[n].events & EPOLLOUT)
			producers[who].writable = true;
		if (events[n].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			drain(producers[who].fd);
	}
	return arrived;
}

// --- Writing ------------------------------------------------------------------------------------

// Write one record, or what is left of one; whether it is complete by that.
static bool produce(struct producer *each)
{
	size_t size = each->left ? each->left : record.size;
	ssize_t wrote = send(each->fd, record.data + record.size - size, size, MSG_NOSIGNAL);
	if (wrote < 0 && errno != EAGAIN)
		die("a producer cannot write");
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
		record.data[stamp_at + n] = (char)('0' + stamp % 10);
}

static uint64_t slowest(void)
{
	uint64_t least = UINT64_MAX;
	for (long long n = 0; n < subscribers_wanted; n++)
		if (subscribers[n].received < least)
			least = subscribers[n].received;
	return subscribers_wanted ? least : sent;
}

static uint64_t delivered(void)
{
	uint64_t sum = 0;
	for (long long n = 0; n < subscribers_wanted; n++)
		sum += subscribers[n].received;
	return sum;
}

// As much as the window allows, every producer in its turn; whether anything was written.
static bool produce_freely(void)
{
	static long long next;
	uint64_t most = window ? slowest() + (uint64_t)window : UINT64_MAX;
	if (count && most > (uint64_t)count)
		most = (uint64_t)count;
	bool wrote = false;
	for (long long tries = 0, n = 0; n < WRITES && tries < producers_wanted; n++) {
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
		next = (next + 1) % producers_wanted;
	}
	return wrote;
}

// What is due by now, one record at a time: the next has to wait for one that is half written,
// since they share the place of their stamp.
static void produce_what_is_due(int64_t since)
{
	static long long next;
	int64_t now = now_ns();
	while ((__int128)sent * SECOND < (__int128)(now - since) * rate) {
		struct producer *each = &producers[next];
		if (!each->left)
			put_stamp(now_ns());
		if (!each->writable || !produce(each))
			return;
		sent++;
		next = (next + 1) % producers_wanted;
	}
}

// --- The course of it ---------------------------------------------------------------------------

static void forget_counts(void)
{
	sent = lost = asides = sample_count = 0;
	for (long long n = 0; n < subscribers_wanted; n++)
		subscribers[n].received = 0;
}

static bool all_joined(void)
{
	for (long long n = 0; n < subscribers_wanted; n++)
		if (!subscribers[n].joined)
			return false;
	return true;
}

static void write_one(struct producer *each)
{
	while (!each->writable || !produce(each))
		turn(JOIN_MS);
}

// One record after the other until everybody got one: some relays do not say when a subscriber is
// known to them. Then a last one, after whose arrival nothing is under way any more.
static void join(void)
{
	int64_t deadline = now_ns() + PATIENCE_S * SECOND;
	joining = true;
	for (bool last = false; !all_joined(); turn(JOIN_MS)) {
		if (!last) {
			last = slowest() > 0;
			put_stamp(last ? LAST_OF_JOINING : 0);
			write_one(&producers[0]);
		}
		if (now_ns() > deadline)
			die("not every subscriber got a record");
	}
	joining = false;
}

// Until the end, or until everything that was to be sent has arrived.
static void run(double how_long)
{
	int64_t since = now_ns(), last = since, end = since + (int64_t)(how_long * 1e9), now;
	while ((now = now_ns()) < end) {
		if (rate)
			produce_what_is_due(since);
		bool busy = rate || produce_freely();
		if (turn(busy ? 0 : JOIN_MS))
			last = now;
		if (count && sent == (uint64_t)count && slowest() == sent)
			return;
		if (!count && window && !rate && now - last > LOSS_TIME) {
			for (long long n = 0; n < subscribers_wanted; n++)
				lost += sent - subscribers[n].received;
			for (long long n = 0; n < subscribers_wanted; n++)
				subscribers[n].received = sent;
			last = now;
		}
	}
	if (count)
		die("not everything arrived in time");
}

static int compare(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
	return (a > b) - (a < b);
}

// The nearest rank: the least that so many per cent do not exceed.
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
	if (watched && clock_getcpuclockid((pid_t)watched, &watched_clock))
		die("there is no such process to watch");
	uint64_t delivered_before = delivered() - lost, sent_before = sent;
	uint64_t lost_before = lost, asides_before = asides;
	int64_t own = clock_of(CLOCK_PROCESS_CPUTIME_ID), theirs = clock_of(watched_clock);
	int64_t since = now_ns();
	if (rate) { // What is due is counted from the beginning of a run.
		forget_counts();
		delivered_before = sent_before = lost_before = asides_before = 0;
	}
	sampling = rate > 0;
	run(count ? PATIENCE_S : seconds);
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
	       (unsigned long long)(asides - asides_before), watched ? (double)theirs / 1e9 : 0,
	       (double)own / 1e9, sample_count, percentile(50), percentile(90), percentile(99));
}

// --- What it is told ----------------------------------------------------------------------------

static struct bytes from_hex(const char *text)
{
	struct bytes bytes = {.size = strlen(text) / 2};
	bytes.data = allocate(bytes.size, 1);
	for (size_t n = 0; n < bytes.size; n++) {
		unsigned byte;
		if (sscanf(text + 2 * n, "%2x", &byte) != 1)
			die("not hexadecimal");
		bytes.data[n] = (char)byte;
	}
	return bytes;
}

static void set(const char *name, const char *value)
{
	const struct {
		const char *name;
		const char **text;
		struct bytes *bytes;
		long long *number;
		double *real;
	} options[] = {
		{.name = "--publish-at", .text = &publish_at},
		{.name = "--subscribe-at", .text = &subscribe_at},
		{.name = "--producer-hello", .bytes = &producer_hello},
		{.name = "--producer-answer", .bytes = &producer_answer},
		{.name = "--subscriber-hello", .bytes = &subscriber_hello},
		{.name = "--subscriber-answer", .bytes = &subscriber_answer},
		{.name = "--subscriber-request", .bytes = &subscriber_request},
		{.name = "--record", .bytes = &record},
		{.name = "--stamp-at", .number = &stamp_at},
		{.name = "--frame-size", .number = &frame_size},
		{.name = "--stamped-at", .number = &stamped_at},
		{.name = "--producers", .number = &producers_wanted},
		{.name = "--subscribers", .number = &subscribers_wanted},
		{.name = "--stalled", .number = &stalled_wanted},
		{.name = "--window", .number = &window},
		{.name = "--rate", .number = &rate},
		{.name = "--count", .number = &count},
		{.name = "--watch", .number = &watched},
		{.name = "--seconds", .real = &seconds},
		{.name = "--warm-up", .real = &warm_up},
	};
	for (size_t n = 0; n < sizeof options / sizeof *options; n++) {
		if (strcmp(options[n].name, name))
			continue;
		if (options[n].text)
			*options[n].text = value;
		else if (options[n].bytes)
			*options[n].bytes = from_hex(value);
		else if (options[n].number)
			*options[n].number = atoll(value);
		else
			*options[n].real = atof(value);
		return;
	}
	fprintf(stderr, "load: %s: ", name);
	die("there is no such option");
}

static void prepare(void)
{
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	buffer = allocate(READ_SIZE + (size_t)frame_size, 1);
	producers = allocate((size_t)producers_wanted, sizeof *producers);
	subscribers = allocate((size_t)subscribers_wanted, sizeof *subscribers);
}

int main(int argc, char **argv)
{
	errno = 0;
	for (int n = 1; n + 1 < argc; n += 2)
		set(argv[n], argv[n + 1]);
	if (!publish_at || !subscribe_at || !record.size || frame_size < 1 || producers_wanted < 1 ||
	    stamp_at < 0 || stamped_at < 0)
		die("needs --publish-at, --subscribe-at, --record, --frame-size, --stamp-at, --stamped-at");
	prepare();
	connect_all();
	if (subscribers_wanted)
		join();
	forget_counts();
	if (warm_up > 0)
		run(warm_up);
	measure();
	return 0;
}
