// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_to(const char *address)
{
	struct sockaddr_un path = {.sun_family = AF_UNIX};
	struct sockaddr_in port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool is_path = strchr(address, '/');
	int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0), on = 1;
	if (fd < 0)
		die("socket");
	struct timeval timeout = {.tv_sec = TIMEOUT_S};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
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

static void write_all(int fd, struct bytes data)
{
	if (data.size && write(fd, data.data, data.size) != (ssize_t)data.size)
		die("cannot send the handshake");
}

// Send hello and read until the answer contains the expected text. Discard other data: no record has
// been written yet.
static void handshake(int fd, struct bytes hello, struct bytes answer)
{
	char received[8192];
	size_t size = 0;
	write_all(fd, hello);
	while (!memmem(received, size, answer.data, answer.size)) {
		ssize_t got = read(fd, received + size, sizeof received - size);
		if (got <= 0)
			die("no answer as expected");
		size += (size_t)got;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

int connect_producer(void)
{
	int fd = connect_to(options.publish_at);
	handshake(fd, options.producer_hello, options.producer_answer);
	return fd;
}

int connect_subscriber(void)
{
	int fd = connect_to(options.subscribe_at);
	handshake(fd, options.subscriber_hello, options.subscriber_answer);
	write_all(fd, options.subscriber_request);
	return fd;
}
