// SPDX-License-Identifier: MIT
//
// load DEVICE read|write BYTES QD COUNT SPAN_BYTES [split]
//
// Direct I/O at random places of the first SPAN_BYTES through io_uring, QD in flight, and nothing else: a generator whose own part of
// an I/O is so small that ratios between devices show. Says on stdout, as one JSON object, what COUNT I/Os took; an eighth of them goes
// before as a warm-up and is not counted. In a machine whose time is the number of instructions executed, ns are instructions.
//
// With split, the clock is read around each io_uring_enter() too: kernel_ns is what was spent in there, less what reading the clock
// takes. The difference to ns is the generator's own part. The clock makes ns itself larger, so split runs are only for that.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct job {
	int fd;
	bool write, split;
	unsigned bytes, qd;
	long count, warm_up;
	uint64_t span, random;
	char *buffers;
	struct io_uring ring;
	// what was seen
	long submitted, done, errors, enters;
	unsigned in_flight;
	int64_t kernel_ns, clock_ns;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

// What two readings of the clock are apart, at least.
static int64_t clock_cost_ns(void)
{
	int64_t least = INT64_MAX;

	for (int i = 0; i < 1000; i++) {
		const int64_t t = now_ns(), d = now_ns() - t;

		if (d < least)
			least = d;
	}
	return least;
}

static uint64_t next_offset(struct job *j)
{
	j->random = j->random * UINT64_C(6364136223846793005) + 1;
	return (j->random >> 20) % (j->span / j->bytes) * j->bytes;
}

static void fill(struct job *j, long total)
{
	while (j->in_flight < j->qd && j->submitted < total) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&j->ring);
		char *buffer = j->buffers + (size_t)j->bytes * (j->submitted % j->qd);

		if (j->write)
			io_uring_prep_write(sqe, j->fd, buffer, j->bytes, next_offset(j));
		else
			io_uring_prep_read(sqe, j->fd, buffer, j->bytes, next_offset(j));
		j->submitted++;
		j->in_flight++;
	}
}

static int enter(struct job *j)
{
	int64_t t;
	int ret;

	j->enters++;
	if (!j->split)
		return io_uring_submit_and_wait(&j->ring, 1);
	t = now_ns();
	ret = io_uring_submit_and_wait(&j->ring, 1);
	j->kernel_ns += now_ns() - t - j->clock_ns;
	return ret;
}

static void reap(struct job *j)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&j->ring, head, cqe) {
		if (cqe->res != (int)j->bytes && !j->errors++)
			fprintf(stderr, "load: I/O of %u bytes returned %d\n", j->bytes, cqe->res);
		n++;
	}
	io_uring_cq_advance(&j->ring, n);
	j->in_flight -= n;
	j->done += n;
}

static int run(struct job *j)
{
	const long total = j->warm_up + j->count;
	int64_t begin = 0, begin_kernel = 0;
	long begin_done = 0, begin_enters = 0;
	struct rusage u0 = {}, u1;

	while (j->done < total) {
		int ret;

		fill(j, total);
		ret = enter(j);
		if (ret < 0 && ret != -EINTR) {
			fprintf(stderr, "load: io_uring_enter: %s\n", strerror(-ret));
			return 1;
		}
		reap(j);
		if (!begin && j->done >= j->warm_up) {
			begin_done = j->done;
			begin_enters = j->enters;
			begin_kernel = j->kernel_ns;
			getrusage(RUSAGE_SELF, &u0);
			begin = now_ns();
		}
	}
	const int64_t end = now_ns();

	getrusage(RUSAGE_SELF, &u1);
	printf("{\"ios\": %ld, \"ns\": %" PRId64 ", \"enters\": %ld, \"switches\": %ld, \"errors\": %ld, \"kernel_ns\": ",
	       j->done - begin_done, end - begin, j->enters - begin_enters,
	       u1.ru_nvcsw - u0.ru_nvcsw + u1.ru_nivcsw - u0.ru_nivcsw, j->errors);
	if (j->split)
		printf("%" PRId64 "}\n", j->kernel_ns - begin_kernel);
	else
		printf("null}\n");
	return j->errors != 0;
}

int main(int argc, char **argv)
{
	struct job j = { .random = 12345 };
	int ret;

	if (argc < 7 || argc > 8 || (strcmp(argv[2], "read") && strcmp(argv[2], "write"))) {
		fprintf(stderr, "use: load DEVICE read|write BYTES QD COUNT SPAN_BYTES [split]\n");
		return 2;
	}
	j.write = !strcmp(argv[2], "write");
	j.bytes = strtoul(argv[3], NULL, 10);
	j.qd = strtoul(argv[4], NULL, 10);
	j.count = strtol(argv[5], NULL, 10);
	j.span = strtoull(argv[6], NULL, 10);
	j.split = argc == 8;
	j.warm_up = j.count / 8 + 1;
	if (!j.bytes || !j.qd || j.count <= 0 || j.span < j.bytes) {
		fprintf(stderr, "load: BYTES, QD and COUNT must be more than 0 and SPAN_BYTES hold an I/O\n");
		return 2;
	}
	j.fd = open(argv[1], (j.write ? O_RDWR : O_RDONLY) | O_DIRECT);
	if (j.fd < 0) {
		fprintf(stderr, "load: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	if (posix_memalign((void **)&j.buffers, 4096, (size_t)j.bytes * j.qd)) {
		fprintf(stderr, "load: no memory for %u buffers of %u bytes\n", j.qd, j.bytes);
		return 1;
	}
	memset(j.buffers, 7, (size_t)j.bytes * j.qd);
	ret = io_uring_queue_init(j.qd, &j.ring, 0);
	if (ret) {
		fprintf(stderr, "load: io_uring: %s\n", strerror(-ret));
		return 1;
	}
	j.clock_ns = clock_cost_ns();
	return run(&j);
}
