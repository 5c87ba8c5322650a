// SPDX-License-Identifier: MIT
//
// payers [--copies] OBJECT NAME=PAYER...: loads and attaches payers.bpf.o; processes called NAME are the submitter or the server. Says "ready", or one
// line why not. Then for each line on stdin: forgets what was counted, says "reset"; for the next one: says what was counted in
// between, as one JSON object. With --copies that is only how many bytes were copied. Ends with stdin.
//
// Times are in ns, which are instructions where time is the number of instructions executed.
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payers.h"

static const char *const payers[PAYERS] = { "submitter", "server", "kernel_threads", "other", "idle" };

static int failed(const char *what, int err)
{
	fprintf(stderr, "payers: %s: %s\n", what, strerror(err < 0 ? -err : err));
	return 1;
}

// NAME=PAYER
static bool take_name(struct payer_name *name, const char *text)
{
	const char *equals = strchr(text, '=');

	if (!equals || equals == text || equals - text >= COMM_LEN)
		return false;
	memcpy(name->comm, text, equals - text);
	name->length = equals - text;
	for (name->payer = 0; name->payer < PAYERS; name->payer++)
		if (!strcmp(payers[name->payer], equals + 1))
			return true;
	return false;
}

// The functions of lib/iov_iter.c that the others end in; a processor has four breakpoints.
static const struct {
	const char *program, *symbol;
} breakpoints[] = {
	{ "on_copy_to", "_copy_to_iter" },
	{ "on_copy_from", "_copy_from_iter" },
	{ "on_copy_into_page_cache", "copy_folio_from_iter_atomic" },
};

// The address of a function of the kernel's, or 0 and errno.
static unsigned long long address_of(const char *symbol)
{
	unsigned long long address, found = 0;
	char name[256], type;
	FILE *f = fopen("/proc/kallsyms", "re");

	if (!f)
		return 0;
	while (!found && fscanf(f, "%llx %c %255s%*[^\n]", &address, &type, name) == 3)
		if (!strcmp(name, symbol) && (type == 'T' || type == 't'))
			found = address;
	fclose(f);
	errno = ENOENT; // not there, or hidden by kptr_restrict
	return found;
}

// On all processors, as it belongs to no process.
static bool attach_breakpoint(struct bpf_program *program, const char *symbol)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(attr),
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = address_of(symbol),
		.bp_len = sizeof(long),
		.sample_period = 1,
		.exclude_user = 1,
	};

	if (!attr.bp_addr)
		return failed(symbol, errno), false;
	for (int cpu = 0, cpus = libbpf_num_possible_cpus(); cpu < cpus; cpu++) {
		const int fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

		if (fd < 0 && errno == ENODEV) // not online
			continue;
		if (fd < 0 || !bpf_program__attach_perf_event(program, fd))
			return failed(symbol, errno), false;
	}
	return true;
}

static const char *breakpoint_of(const char *program)
{
	for (size_t i = 0; i < sizeof(breakpoints) / sizeof(*breakpoints); i++)
		if (!strcmp(breakpoints[i].program, program))
			return breakpoints[i].symbol;
	return NULL;
}

// Who pays, or what is copied.
static void choose(struct bpf_object *object, bool copies)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object) {
		const char *name = bpf_program__name(program);
		const bool of_copies = breakpoint_of(name) || !strcmp(name, "on_window");

		bpf_program__set_autoload(program, of_copies == copies);
	}
}

static bool attach(struct bpf_object *object)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object) {
		const char *symbol = breakpoint_of(bpf_program__name(program));

		if (!bpf_program__autoload(program))
			continue;
		if (symbol) {
			if (!attach_breakpoint(program, symbol))
				return false;
		} else if (!bpf_program__attach(program)) {
			failed(bpf_program__section_name(program), errno);
			return false;
		}
	}
	return true;
}

static void sum(struct counts *total, const struct seen *seen)
{
	for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct counts *c = &seen->cpus[cpu];
		const unsigned long long from = c->last > seen->begin ? c->last : seen->begin;

		for (int p = 0; p < PAYERS; p++) {
			total->syscalls[p] += c->syscalls[p];
			total->wakeups[p] += c->wakeups[p];
			for (int m = 0; m < MODES; m++)
				total->ns[p][m] += c->ns[p][m];
		}
		total->interrupts_ns += c->interrupts_ns;
		total->switches += c->switches;
		total->copied_bytes += c->copied_bytes;
		// a processor on which nothing has changed since
		if (c->last && from < seen->end && c->payer < PAYERS && c->mode < MODES)
			total->ns[c->payer][c->mode] += seen->end - from;
	}
}

static void say(const struct seen *seen)
{
	struct counts t = {};

	sum(&t, seen);
	printf("{\"ns\": %llu", seen->end - seen->begin);
	for (int p = 0; p < PAYERS; p++)
		printf(", \"%s\": {\"user_ns\": %llu, \"system_ns\": %llu, \"syscalls\": %llu, \"wakeups\": %llu}", payers[p],
		       t.ns[p][USER], t.ns[p][SYSTEM], t.syscalls[p], t.wakeups[p]);
	printf(", \"interrupts_ns\": %llu, \"switches\": %llu, \"copied_bytes\": %llu}\n", t.interrupts_ns, t.switches, t.copied_bytes);
}

static int serve(struct seen *seen)
{
	char line[16];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		// Nothing is counted now. What a processor is at, it may be changing this moment.
		for (int cpu = 0; cpu < MAX_CPUS; cpu++)
			memset(&seen->cpus[cpu], 0, offsetof(struct counts, last));
		seen->begin = seen->end = 0;
		puts("reset");
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			break;
		say(seen);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct payer_name *names;
	struct bpf_object *object;
	struct bpf_map *map, *bss = NULL, *rodata = NULL;
	size_t size;
	bool copies;
	int err;

	copies = argc > 1 && !strcmp(argv[1], "--copies");
	argc -= copies;
	argv += copies;
	if (argc < 3 || argc - 2 > MAX_NAMES) {
		fprintf(stderr, "payers: use: payers [--copies] OBJECT NAME=PAYER..., at most %d names\n", MAX_NAMES);
		return 2;
	}
	libbpf_set_print(NULL);
	object = bpf_object__open_file(argv[1], NULL);
	if (!object)
		return failed(argv[1], errno);
	bpf_object__for_each_map(map, object) {
		if (strstr(bpf_map__name(map), ".bss"))
			bss = map;
		else if (strstr(bpf_map__name(map), ".rodata"))
			rodata = map;
	}
	names = rodata ? bpf_map__initial_value(rodata, &size) : NULL;
	if (!bss || !names || size < sizeof(*names) * MAX_NAMES)
		return failed(argv[1], EINVAL);
	for (int i = 2; i < argc; i++) {
		if (!take_name(&names[i - 2], argv[i])) {
			fprintf(stderr, "payers: %s: is no NAME=PAYER; a name has at most %d characters\n", argv[i], COMM_LEN - 1);
			return 2;
		}
	}
	choose(object, copies);
	err = bpf_object__load(object);
	if (err)
		return failed(argv[1], err);
	if (!attach(object))
		return 1;
	return serve(bpf_map__initial_value(bss, &size));
}
