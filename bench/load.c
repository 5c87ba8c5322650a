// SPDX-License-Identifier: MIT
//
// load [OPTION]... DEVICE...: direct I/O on the devices through io_uring or libaio, QD in flight on each, and nothing else: a generator whose own
// part of an I/O is so small that ratios between devices show (fio's t/io_uring is of this kind, and in no package).
//
//   --rw read|write|mixed   what; mixed: 7 of 10 read (read)
//   --engine io_uring|libaio   by which system calls (io_uring). io_uring gives I/O to a worker of its own where a driver may wait, as most of
//                           device mapper and md may; with libaio the submitter itself does it
//   --bs BYTES, --qd N      of each I/O; I/Os in flight on each device (4096, 1)
//   --ios N                 how many are counted, on all devices together (1000); an eighth goes before as a warm-up
//   --first BYTES           where in each device the I/O begins (0)
//   --span BYTES            of each device from there on (16 MiB)
//   --sequential            one after the other instead of at random
//   --steady                as many I/Os as are in flight go before and follow after those that are counted: for few I/Os and great depths
//   --small-pages           no huge pages behind the buffers: whether there are any depends on where they come to lie
//   --split                 read the clock around submitting and waiting too
//
// Says on stdout, as one JSON object, what they took. In a machine whose time is the number of instructions executed, ns are
// instructions. What is counted begins with its first getrusage() and ends with its second, for those that look from outside.
//
// With --split, kernel_ns is what was spent in these system calls, less what reading the clock takes. The difference to ns is the
// generator's own part. The clock makes ns itself larger, so split runs are only for that.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define READS_OF_10 7

enum rw { READ, WRITE, MIXED };

// What an aio_context_t points to (fs/aio.c).
#define AIO_RING_MAGIC 0xa10a10a1

struct aio_ring {
	unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

// What libaio wraps. An iocb may be used again when io_submit() has returned.
struct aio {
	aio_context_t context;
	struct iocb *iocbs, **queue;
	struct io_event *events;
	unsigned queued, size;
};

struct device {
	int fd;
	unsigned in_flight;
	uint64_t next; // sequential
};

struct job {
	struct device *devices;
	unsigned nr_devices;
	enum rw rw;
	bool libaio, sequential, split, steady, small_pages;
	unsigned bytes, qd;
	long count, warm_up, follow;
	uint64_t first, span, random;
	char *buffers;
	struct io_uring ring;
	struct aio aio;
	// what was seen
	long submitted, done, errors, enters;
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

static uint64_t next_random(struct job *j)
{
	j->random = j->random * UINT64_C(6364136223846793005) + 1;
	return j->random >> 20;
}

static uint64_t next_offset(struct job *j, struct device *d)
{
	const uint64_t places = j->span / j->bytes;

	return j->first + (j->sequential ? d->next++ : next_random(j)) % places * j->bytes;
}

static bool next_is_write(struct job *j)
{
	return j->rw == WRITE || (j->rw == MIXED && next_random(j) % 10 >= READS_OF_10);
}

static void prepare_uring(struct job *j, struct device *d, bool write, char *buffer)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&j->ring);

	if (write)
		io_uring_prep_write(sqe, d->fd, buffer, j->bytes, next_offset(j, d));
	else
		io_uring_prep_read(sqe, d->fd, buffer, j->bytes, next_offset(j, d));
	io_uring_sqe_set_data(sqe, d);
}

static void prepare_aio(struct job *j, struct device *d, bool write, char *buffer)
{
	struct aio *aio = &j->aio;

	aio->iocbs[aio->queued++] = (struct iocb){
		.aio_data = (uintptr_t)d,
		.aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		.aio_fildes = d->fd,
		.aio_buf = (uintptr_t)buffer,
		.aio_nbytes = j->bytes,
		.aio_offset = next_offset(j, d),
	};
}

static void fill_device(struct job *j, struct device *d, long total)
{
	while (d->in_flight < j->qd && j->submitted < total) {
		char *buffer = j->buffers + (size_t)j->bytes * (j->submitted % j->qd);
		const bool write = next_is_write(j);

		if (j->libaio)
			prepare_aio(j, d, write, buffer);
		else
			prepare_uring(j, d, write, buffer);
		j->submitted++;
		d->in_flight++;
	}
}

static void fill(struct job *j, long total)
{
	for (unsigned i = 0; i < j->nr_devices; i++)
		fill_device(j, &j->devices[i], total);
}

static void reaped(struct job *j, struct device *d, long result)
{
	if (result != (long)j->bytes && !j->errors++)
		fprintf(stderr, "load: I/O of %u bytes returned %ld\n", j->bytes, result);
	d->in_flight--;
	j->done++;
}

static int enter_uring(struct job *j)
{
	return io_uring_submit_and_wait(&j->ring, 1);
}

static void reap_uring(struct job *j)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&j->ring, head, cqe) {
		reaped(j, io_uring_cqe_get_data(cqe), cqe->res);
		n++;
	}
	io_uring_cq_advance(&j->ring, n);
}

static void reaped_aio(struct job *j, const struct io_event *e)
{
	reaped(j, (struct device *)(uintptr_t)e->data, e->res);
}

// Takes what is done out of the context's ring, without a system call, as fio does (userspace_reap); returns how many.
static unsigned reap_ring(struct job *j)
{
	struct aio_ring *ring = (struct aio_ring *)j->aio.context;
	unsigned head, n = 0;

	if (ring->magic != AIO_RING_MAGIC)
		return 0;
	for (head = ring->head; head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE); n++) {
		reaped_aio(j, &ring->events[head]);
		head = head + 1 == ring->nr ? 0 : head + 1;
	}
	__atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
	return n;
}

static int enter_aio(struct job *j)
{
	struct aio *aio = &j->aio;
	unsigned submitted = 0;
	long n;

	while (submitted < aio->queued) {
		n = syscall(SYS_io_submit, aio->context, aio->queued - submitted, aio->queue + submitted);
		if (n < 0)
			return -errno;
		submitted += n;
	}
	aio->queued = 0;
	if (reap_ring(j))
		return 0;
	n = syscall(SYS_io_getevents, aio->context, 1, aio->size, aio->events, NULL);
	if (n < 0)
		return -errno;
	for (long i = 0; i < n; i++)
		reaped_aio(j, &aio->events[i]);
	return 0;
}

static int enter(struct job *j)
{
	int64_t t;
	int ret;

	j->enters++;
	if (!j->split)
		return j->libaio ? enter_aio(j) : enter_uring(j);
	t = now_ns();
	ret = j->libaio ? enter_aio(j) : enter_uring(j);
	j->kernel_ns += now_ns() - t - j->clock_ns;
	return ret;
}

// Submits and reaps once.
static int step(struct job *j, long total)
{
	int ret;

	fill(j, total);
	ret = enter(j);
	if (ret < 0 && ret != -EINTR) {
		fprintf(stderr, "load: %s: %s\n", j->libaio ? "io_submit or io_getevents" : "io_uring_enter", strerror(-ret));
		return 1;
	}
	if (!j->libaio)
		reap_uring(j);
	return 0;
}

// How far it has come.
struct mark {
	int64_t ns, kernel_ns;
	long done, enters, switches;
};

static struct mark mark(const struct job *j, bool at_the_end)
{
	struct mark m = { .kernel_ns = j->kernel_ns, .done = j->done, .enters = j->enters };
	struct rusage u;

	// Those that look from outside see the call, so that it is just outside what is counted.
	if (at_the_end)
		m.ns = now_ns();
	getrusage(RUSAGE_SELF, &u);
	m.switches = u.ru_nvcsw + u.ru_nivcsw;
	if (!at_the_end)
		m.ns = now_ns();
	return m;
}

static int run(struct job *j)
{
	const long counted = j->warm_up + j->count, total = counted + j->follow;
	struct mark begin, end;

	while (j->done < j->warm_up)
		if (step(j, total))
			return 1;
	begin = mark(j, false);
	while (j->done < counted)
		if (step(j, total))
			return 1;
	end = mark(j, true);
	while (j->done < total)
		if (step(j, total))
			return 1;
	printf("{\"ios\": %ld, \"ns\": %" PRId64 ", \"enters\": %ld, \"switches\": %ld, \"errors\": %ld, \"kernel_ns\": ",
	       end.done - begin.done, end.ns - begin.ns, end.enters - begin.enters, end.switches - begin.switches, j->errors);
	if (j->split)
		printf("%" PRId64 "}\n", end.kernel_ns - begin.kernel_ns);
	else
		printf("null}\n");
	return j->errors != 0;
}

static const struct option options[] = {
	{ "rw", required_argument, NULL, 'w' },
	{ "engine", required_argument, NULL, 'e' },
	{ "bs", required_argument, NULL, 'b' },
	{ "qd", required_argument, NULL, 'q' },
	{ "ios", required_argument, NULL, 'i' },
	{ "first", required_argument, NULL, 'f' },
	{ "span", required_argument, NULL, 's' },
	{ "sequential", no_argument, NULL, 'l' },
	{ "steady", no_argument, NULL, 't' },
	{ "small-pages", no_argument, NULL, 'm' },
	{ "split", no_argument, NULL, 'p' },
	{ },
};

static bool take_rw(struct job *j, const char *text)
{
	static const char *const names[] = { "read", "write", "mixed" };

	for (int i = READ; i <= MIXED; i++) {
		if (!strcmp(text, names[i])) {
			j->rw = i;
			return true;
		}
	}
	return false;
}

static bool take_engine(struct job *j, const char *text)
{
	j->libaio = !strcmp(text, "libaio");
	return j->libaio || !strcmp(text, "io_uring");
}

static bool understand(struct job *j, int argc, char **argv)
{
	bool good = true;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'w': good &= take_rw(j, optarg); break;
		case 'e': good &= take_engine(j, optarg); break;
		case 'b': j->bytes = strtoul(optarg, NULL, 10); break;
		case 'q': j->qd = strtoul(optarg, NULL, 10); break;
		case 'i': j->count = strtol(optarg, NULL, 10); break;
		case 'f': j->first = strtoull(optarg, NULL, 10); break;
		case 's': j->span = strtoull(optarg, NULL, 10); break;
		case 'l': j->sequential = true; break;
		case 't': j->steady = true; break;
		case 'm': j->small_pages = true; break;
		case 'p': j->split = true; break;
		default: good = false;
		}
	}
	j->nr_devices = argc - optind;
	return good && j->nr_devices && j->bytes && j->qd && j->count > 0 && j->span >= j->bytes;
}

// A disk is only written if nobody has claimed it. To claim it meanwhile would change what is measured: a device that is
// claimed may have a file system on it, for which drivers that serve files (ublk's engine too) take a longer way.
static int must_be_free(const char *name)
{
	const int fd = open(name, O_RDONLY | O_EXCL);

	if (fd < 0) {
		fprintf(stderr, "load: %s: %s%s\n", name, strerror(errno),
			errno != EBUSY ? "" : ": a file system, swap, a device above it, or an opener with O_EXCL has claimed it");
		return 1;
	}
	close(fd);
	return 0;
}

static int open_devices(struct job *j, char **names)
{
	j->devices = calloc(j->nr_devices, sizeof(*j->devices));
	if (!j->devices) {
		fprintf(stderr, "load: no memory for %u devices\n", j->nr_devices);
		return 1;
	}
	for (unsigned i = 0; i < j->nr_devices; i++) {
		if (j->rw != READ && must_be_free(names[i]))
			return 1;
		j->devices[i].fd = open(names[i], (j->rw == READ ? O_RDONLY : O_RDWR) | O_DIRECT);
		if (j->devices[i].fd < 0) {
			fprintf(stderr, "load: %s: %s\n", names[i], strerror(errno));
			return 1;
		}
	}
	return 0;
}

static int set_up_aio(struct aio *aio, unsigned size)
{
	aio->size = size;
	aio->iocbs = calloc(size, sizeof(*aio->iocbs));
	aio->queue = calloc(size, sizeof(*aio->queue));
	aio->events = calloc(size, sizeof(*aio->events));
	if (!aio->iocbs || !aio->queue || !aio->events) {
		fprintf(stderr, "load: no memory for %u I/Os\n", size);
		return 1;
	}
	for (unsigned i = 0; i < size; i++)
		aio->queue[i] = &aio->iocbs[i];
	if (syscall(SYS_io_setup, size, &aio->context)) {
		fprintf(stderr, "load: io_setup: %s\n", strerror(errno));
		return 1;
	}
	return 0;
}

static int set_up_engine(struct job *j)
{
	const unsigned size = j->qd * j->nr_devices;
	int ret;

	if (j->libaio)
		return set_up_aio(&j->aio, size);
	ret = io_uring_queue_init(size, &j->ring, 0);
	if (ret)
		fprintf(stderr, "load: io_uring: %s\n", strerror(-ret));
	return ret != 0;
}

int main(int argc, char **argv)
{
	struct job j = { .bytes = 4096, .qd = 1, .count = 1000, .span = 16 << 20, .random = 12345 };
	int ret;

	if (!understand(&j, argc, argv)) {
		fprintf(stderr, "load: use: load [OPTION]... DEVICE..., see the head of load.c; sizes and numbers are more than 0, "
				"and the span holds an I/O\n");
		return 2;
	}
	j.warm_up = j.count / 8 + 1;
	if (j.steady) {
		j.follow = (long)j.qd * j.nr_devices;
		j.warm_up = j.warm_up > j.follow ? j.warm_up : j.follow;
	}
	ret = open_devices(&j, argv + optind);
	if (ret)
		return ret;
	if (posix_memalign((void **)&j.buffers, 4096, (size_t)j.bytes * j.qd)) {
		fprintf(stderr, "load: no memory for %u buffers of %u bytes\n", j.qd, j.bytes);
		return 1;
	}
	if (j.small_pages)
		madvise(j.buffers, (size_t)j.bytes * j.qd, MADV_NOHUGEPAGE);
	memset(j.buffers, 7, (size_t)j.bytes * j.qd);
	ret = set_up_engine(&j);
	if (ret)
		return ret;
	j.clock_ns = clock_cost_ns();
	return run(&j);
}
