// SPDX-License-Identifier: MIT
/*
 * Prints the frequency of this host's time stamp counter in kHz. An emulated machine shows its guest the same counter; a guest
 * that measures it while the host is busy can be wrong by a factor, and its clock with it.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct sample {
	uint64_t tsc, ns;
};

/* Both clocks at one moment: of many tries the one that took least. */
static struct sample now(void)
{
	struct sample best = { 0 };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 200; i++) {
		struct timespec t;
		uint64_t before = __rdtsc(), after;

		clock_gettime(CLOCK_MONOTONIC_RAW, &t);
		after = __rdtsc();
		if (after - before < least) {
			least = after - before;
			best.tsc = before + least / 2;
			best.ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
		}
	}
	return best;
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = 100000000 };
	struct sample first = now(), last;

	nanosleep(&pause, NULL);
	last = now();
	printf("%llu\n", (unsigned long long)((last.tsc - first.tsc) * 1000000 / (last.ns - first.ns)));
	return 0;
}
