// SPDX-License-Identifier: Apache-2.0
//
// Lower bound of the cost of a relay: copy bytes from one socket to N others. The program does not parse,
// store or drop records.
//
// Writes block, which requires the fewest system calls. A subscriber that does not read therefore stops
// all others.

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ_SIZE = 64 * 1024, MAX_SUBSCRIBERS = 4096, MAX_EVENTS = 64 };

static int subscribers[MAX_SUBSCRIBERS], number;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, MAX_SUBSCRIBERS))
		die(path);
	return fd;
}

static void watch(int epoll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void copy(int from)
{
	static char buffer[READ_SIZE];
	ssize_t size = recv(from, buffer, sizeof buffer, 0);
	if (size <= 0)
		close(from);
	for (int n = 0; size > 0 && n < number; n++)
		if (send(subscribers[n], buffer, (size_t)size, MSG_NOSIGNAL) != size)
			subscribers[n--] = subscribers[--number];
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: limit INGEST PUBLIC\n");
		return 2;
	}
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	int ingest = listen_at(argv[1]), public = listen_at(argv[2]), epoll_fd = epoll_create1(0);
	watch(epoll_fd, ingest);
	watch(epoll_fd, public);
	for (;;) {
		struct epoll_event events[MAX_EVENTS];
		int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, -1);
		for (int n = 0; n < ready; n++) {
			int fd = events[n].data.fd;
			if (fd == ingest)
				watch(epoll_fd, accept(ingest, NULL, NULL));
			else if (fd == public && number < MAX_SUBSCRIBERS)
				subscribers[number++] = accept(public, NULL, NULL);
			else
				copy(fd);
		}
	}
}
