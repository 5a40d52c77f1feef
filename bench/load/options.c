// SPDX-License-Identifier: Apache-2.0

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options options = {
	.stamp_at = -1,
	.stamped_at = -1,
	.producers = 1,
	.subscribers = 1,
	.seconds = 1,
};

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
	} known[] = {
		{.name = "--publish-at", .text = &options.publish_at},
		{.name = "--subscribe-at", .text = &options.subscribe_at},
		{.name = "--producer-hello", .bytes = &options.producer_hello},
		{.name = "--producer-answer", .bytes = &options.producer_answer},
		{.name = "--subscriber-hello", .bytes = &options.subscriber_hello},
		{.name = "--subscriber-answer", .bytes = &options.subscriber_answer},
		{.name = "--subscriber-request", .bytes = &options.subscriber_request},
		{.name = "--record", .bytes = &options.record},
		{.name = "--stamp-at", .number = &options.stamp_at},
		{.name = "--frame-size", .number = &options.frame_size},
		{.name = "--stamped-at", .number = &options.stamped_at},
		{.name = "--producers", .number = &options.producers},
		{.name = "--subscribers", .number = &options.subscribers},
		{.name = "--stalled", .number = &options.stalled},
		{.name = "--window", .number = &options.window},
		{.name = "--rate", .number = &options.rate},
		{.name = "--count", .number = &options.count},
		{.name = "--watch", .number = &options.watch},
		{.name = "--seconds", .real = &options.seconds},
		{.name = "--warm-up", .real = &options.warm_up},
	};
	for (size_t n = 0; n < sizeof known / sizeof *known; n++) {
		if (strcmp(known[n].name, name))
			continue;
		if (known[n].text)
			*known[n].text = value;
		else if (known[n].bytes)
			*known[n].bytes = from_hex(value);
		else if (known[n].number)
			*known[n].number = atoll(value);
		else
			*known[n].real = atof(value);
		return;
	}
	fprintf(stderr, "load: %s: ", name);
	die("unknown option");
}

void parse_options(int argc, char **argv)
{
	for (int n = 1; n + 1 < argc; n += 2)
		set(argv[n], argv[n + 1]);
	if (!options.publish_at || !options.subscribe_at || !options.record.size ||
	    options.frame_size < 1 || options.producers < 1 || options.stamp_at < 0 ||
	    options.stamped_at < 0)
		die("requires --publish-at, --subscribe-at, --record, --frame-size, --stamp-at and "
		    "--stamped-at");
}
