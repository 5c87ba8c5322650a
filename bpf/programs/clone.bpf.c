// SPDX-License-Identifier: GPL-2.0
/*
 * clone: the program half of the target `clone`, copy on write. Files 0 to
 * `nr_layers` - 1 are the layers, the top layer first, then comes the base, if
 * there is one. The first server of a clone loads it, and each attaches it and
 * fills its own clone's entries of the maps (ublk_bpf_maps.h).
 *
 * Served here, without the server:
 * - READs, from the topmost layer that has the block, else from the base, else
 *   zeroes. More than eight extents are read in rounds.
 * - WRITEs, discards and zeroes of blocks that are in the top layer.
 * - WRITEs of whole blocks that are not: the completion program makes them
 *   present once the data is there, so that a reader in between has the old
 *   data.
 * - FLUSHes, unless the file's bitmap lacks something.
 *
 * All else is passed: parts of blocks that are not in the top layer, FLUSH and
 * FUA while there is something to be saved, and what touches a block that the
 * server is at work on.
 */
#include <ublk/sqe.bpf.h>
#include <ublk_bpf_maps.h>

/* Of the object that it was loaded from, by which the server knows it again */
const volatile __u64 build;

/* words that the blocks of a request may be in; what has more is passed */
#define MAX_WORDS	8U

/* words and extents that one plan is looked for in */
#define MAX_STEPS	64U

#define NO_FILE		31U
#define FILE_SHIFT	32

struct bits {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/* each clone's has another number of entries */
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UBLK_BPF_DISKS);
	__type(key, __u32);
	__array(values, struct bits);
} ublk_disk_bits SEC(".maps");

struct state {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	/* of a type that is named only here clang tells no size */
	__uint(value_size, sizeof(struct ublk_bpf_clone));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UBLK_BPF_DISKS);
	__type(key, __u32);
	__array(values, struct state);
} ublk_disk_clone SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UBLK_BPF_DISKS);
	__type(key, __u32);
	__type(value, struct ublk_bpf_clone_chain);
} ublk_disk_chain SEC(".maps");

static __always_inline const struct ublk_bpf_clone_chain *chain_of(__u32 dev_id)
{
	return bpf_map_lookup_elem(&ublk_disk_chain, &dev_id);
}

/* the clone's own map: of one word for each 64 blocks */
static __always_inline void *bits_of(__u32 dev_id)
{
	return bpf_map_lookup_elem(&ublk_disk_bits, &dev_id);
}

static __always_inline struct ublk_bpf_clone *shared_of(__u32 dev_id)
{
	void *state = bpf_map_lookup_elem(&ublk_disk_clone, &dev_id);
	__u32 key = 0;

	return state ? bpf_map_lookup_elem(state, &key) : NULL;
}

static __always_inline __u64 *word_at(void *bits, __u64 index)
{
	__u32 key = index;

	return bpf_map_lookup_elem(bits, &key);
}

static __always_inline __u64 load_word(void *bits, __u64 index)
{
	const volatile __u64 *word = word_at(bits, index);

	return word ? *word : 0;
}

/* where the map has the bit of a block */
static __always_inline __u64 word_of(const struct ublk_bpf_clone_chain *chain,
				     __u32 layer, __u64 block)
{
	return (layer ? chain->nr_marks + layer * chain->nr_words : 0) +
	       (block >> 6);
}

/* of the bits from @bit on, @nr, up to the word's end */
static __always_inline __u64 mask_of(__u64 bit, __u64 nr)
{
	__u64 ones = nr < 64 ? (1ULL << nr) - 1 : ~0ULL;

	return ones << (bit & 63);
}

/*
 * How many of the lowest bits of @word are as its first one. Without branches,
 * of which the verifier would follow each combination: it counts the bits below
 * the lowest one that differs.
 */
static __always_inline __u32 run_of(__u64 word)
{
	__u64 n = word ^ -(word & 1);

	n = (n & -n) - 1;
	n -= n >> 1 & 0x5555555555555555ULL;
	n = (n & 0x3333333333333333ULL) + (n >> 2 & 0x3333333333333333ULL);
	n = (n + (n >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return n * 0x0101010101010101ULL >> 56;
}

/* the blocks of a request */
struct blocks {
	__u64	first;
	__u64	nr;
};

static __always_inline struct blocks
blocks_of(const struct ublk_bpf_clone_chain *chain,
	  const struct ublk_bpf_ctx *ctx)
{
	__u64 start = ctx->start_sector;
	__u64 last = start + ctx->nr_sectors - 1;
	struct blocks b = { .first = start >> chain->block_shift };

	b.nr = (last >> chain->block_shift) - b.first + 1;
	return b;
}

/* of the map: one word has all of their bits, as of most requests */
static __always_inline _Bool in_one_word(struct blocks b)
{
	return (b.first & 63) + b.nr <= 64;
}

/* nothing of a block is left out, or it is the device's last and cut short */
static __always_inline _Bool
whole_blocks(const struct ublk_bpf_clone_chain *chain,
	     const struct ublk_bpf_ctx *ctx)
{
	__u64 within = (1ULL << chain->block_shift) - 1;
	__u64 end = ctx->start_sector + ctx->nr_sectors;

	return !(ctx->start_sector & within) &&
	       (!(end & within) || end == chain->nr_sectors);
}

/*
 * Whether the @nr blocks from @first on are in the top layer; not if they are in
 * too many words. A function of its own to the verifier, which follows it once.
 */
int __attribute__((noinline)) words_present(__u32 dev_id, __u64 first, __u64 nr)
{
	void *bits = bits_of(dev_id);
	__u64 mask;
	__u32 i;

	if (!bits)
		return 0;
	for (i = 0; i < MAX_WORDS; i++) {
		mask = mask_of(first, nr);
		if ((load_word(bits, first >> 6) & mask) != mask)
			return 0;
		mask = 64 - (first & 63);
		if (nr <= mask)
			return 1;
		nr -= mask;
		first += mask;
	}
	return 0;
}

static __always_inline _Bool all_present(__u32 dev_id, struct blocks b)
{
	__u64 mask = mask_of(b.first, b.nr);
	void *bits;

	if (!in_one_word(b))
		return words_present(dev_id, b.first, b.nr);
	bits = bits_of(dev_id);
	return bits && (load_word(bits, b.first >> 6) & mask) == mask;
}

/*
 * The extent that begins at @sector: how many sectors it has, and from
 * FILE_SHIFT on in which file it is; NO_FILE is zeroes. 0: the disk is not this
 * program's. A function of its own to the verifier, which follows it once.
 */
__u64 __attribute__((noinline)) find(__u32 dev_id, __u64 sector)
{
	const struct ublk_bpf_clone_chain *chain = chain_of(dev_id);
	__u64 block, word, end, next, file = NO_FILE;
	void *bits = bits_of(dev_id);
	__u32 layer;

	if (!chain || !bits)
		return 0;
	block = sector >> chain->block_shift;
	end = (block | 63) + 1;
	for (layer = 0; layer < UBLK_BPF_CLONE_LAYERS; layer++) {
		if (layer >= chain->nr_layers)
			break;
		word = load_word(bits, word_of(chain, layer, block)) >>
		       (block & 63);
		next = block + run_of(word);
		if (next < end)
			end = next;
		if (word & 1) {
			file = layer;
			break;
		}
	}
	end <<= chain->block_shift;
	if (file == NO_FILE && sector < chain->base_sectors) {
		file = chain->nr_layers;
		if (end > chain->base_sectors)
			end = chain->base_sectors;
	}
	return (end - sector) | file << FILE_SHIFT;
}

/* What a READ finds of a plan: its first piece, and how far all of them reach. */
struct plan {
	__u64	sector;		/* the next one that is looked at */
	__u64	end;		/* of what is looked at */
	__u32	most;		/* pieces */
	__u32	nr;		/* of them there are */
	__u32	last_file;	/* of the extent before @sector */
	__u32	dev_id;
	/* the first one: its file, of the device its sectors, where in its file */
	__u32	file;
	__u64	from;
	__u64	until;
	__u64	offset;
};

/* 1: the plan is full, or reaches the end */
static long step(__u32 index __attribute__((unused)), struct plan **walked)
{
	struct plan *p = *walked;
	__u64 found, left;
	__u32 file, nr;

	if (p->sector >= p->end)
		return 1;
	left = p->end - p->sector;
	found = find(p->dev_id, p->sector);
	if (!found)
		return 1;
	file = found >> FILE_SHIFT;
	nr = found;
	if (nr > left)
		nr = left;
	if (file != NO_FILE && file != p->last_file) {
		if (p->nr >= p->most)
			return 1;
		if (!p->nr) {
			p->file = file;
			p->from = p->sector;
		}
		p->nr++;
	}
	p->last_file = file;
	p->sector += nr;
	if (file != NO_FILE && p->nr == 1)
		p->until = p->sector;
	return 0;
}

/* From @p->sector on. Followed once by the verifier, too. */
int __attribute__((noinline)) walk(struct plan *p)
{
	const struct ublk_bpf_clone_chain *chain;
	const struct ublk_bpf_clone *state;

	if (!p)
		return 0;
	chain = chain_of(p->dev_id);
	state = shared_of(p->dev_id);
	if (!chain || !state)
		return 0;
	p->nr = 0;
	p->last_file = NO_FILE;
	/* bpf_loop() hands on what is on the stack */
	bpf_loop(MAX_STEPS, step, &p, 0);
	p->offset = p->from << UBLK_BPF_SECTOR_SHIFT;
	/* not of the base */
	if (p->file < UBLK_BPF_CLONE_LAYERS && p->file != chain->nr_layers)
		p->offset += state->data_offset[p->file];
	return 1;
}

/*
 * From the @done'th sector of the request on. The first SQE's user_data is how
 * many sectors of it are done after this plan, which has to be known before it
 * is queued: so it is walked twice, unless it is in one piece. @zeroes: what to
 * return if the rest is nowhere.
 */
static __always_inline int plan_read(struct ublk_bpf_ctx *ctx, __u32 done,
				     int zeroes)
{
	__u64 start = ctx->start_sector, user_data = 0;
	struct plan p = {
		.sector = start + done,
		.end = start + ctx->nr_sectors,
		.most = UBLK_BPF_MAX_SQES,
		.dev_id = ctx->dev_id,
	};
	__u32 i;

	/* the first walk looks how far it reaches, each other one has a piece */
	for (i = 0; i <= UBLK_BPF_MAX_SQES; i++) {
		if (!walk(&p))
			return UBLK_BPF_IO_PASS;
		if (!i) {
			if (!p.nr)
				return p.sector < p.end ? UBLK_BPF_IO_PASS : zeroes;
			user_data = p.sector - start;
			p.end = p.sector;
			if (p.nr > 1) {
				p.sector = start + done;
				p.most = 1;
				continue;
			}
		}
		if (!p.nr)
			break;
		ublk_bpf_queue_rw_with(ctx, p.file, p.offset,
				       (p.from - start) << UBLK_BPF_SECTOR_SHIFT,
				       (p.until - p.from) << UBLK_BPF_SECTOR_SHIFT,
				       user_data);
		if (p.sector >= p.end)
			return UBLK_BPF_IO_REDIRECT;
	}
	/* blocks that have become present meanwhile have made more pieces of it */
	return UBLK_BPF_IO_PASS;
}

static __always_inline int read(struct ublk_bpf_ctx *ctx)
{
	__u64 start = ctx->start_sector, end = start + ctx->nr_sectors;
	const struct ublk_bpf_clone_chain *chain;
	__u64 first, last, mask, word, offset = 0;
	__u32 dev_id = ctx->dev_id, file = NO_FILE;
	void *bits;

	chain = bpf_map_lookup_elem(&ublk_disk_chain, &dev_id);
	bits = bpf_map_lookup_elem(&ublk_disk_bits, &dev_id);
	if (!chain || !bits)
		return UBLK_BPF_IO_PASS;
	first = start >> chain->block_shift;
	last = (end - 1) >> chain->block_shift;
	/* in one place, as most are */
	if (first >> 6 == last >> 6) {
		mask = (2ULL << (last - first)) - 1;
		word = load_word(bits, first >> 6) >> (first & 63) & mask;
		if (word == mask) {
			file = 0;
			offset = chain->top_offset;
		} else if (!word && chain->nr_layers == 1 &&
			   end <= chain->base_sectors) {
			file = 1;
		}
	}
	if (file == NO_FILE)
		return plan_read(ctx, 0, UBLK_BPF_IO_DROP);
	ublk_bpf_queue_rw_with(ctx, file, offset + ublk_bpf_start_bytes(ctx), 0,
			       ublk_bpf_len_bytes(ctx), ctx->nr_sectors);
	return UBLK_BPF_IO_REDIRECT;
}

static __always_inline _Bool is_saved(const struct ublk_bpf_clone *state)
{
	const volatile struct ublk_bpf_clone *now = state;

	return now->begun == now->saved && !now->unsaved;
}

/* what was planned before it was, is waited for by a drain */
static __always_inline _Bool is_frozen(const struct ublk_bpf_clone *state)
{
	const volatile struct ublk_bpf_clone *now = state;

	return now->flags & UBLK_BPF_CLONE_F_FROZEN;
}

static __always_inline _Bool is_busy(const struct ublk_bpf_clone *state,
				    struct blocks b)
{
	__u64 mask = mask_of(b.first, b.nr);

	/* modulo 64 */
	if (!in_one_word(b))
		mask |= b.nr >= 64 ? ~0ULL : mask_of(0, (b.first + b.nr) & 63);
	return ((const volatile struct ublk_bpf_clone *)state)->busy & mask;
}

/* user_data: its blocks become present with it */
static __always_inline int change(struct ublk_bpf_ctx *ctx)
{
	const struct ublk_bpf_clone_chain *chain = chain_of(ctx->dev_id);
	const struct ublk_bpf_clone *state = shared_of(ctx->dev_id);
	struct blocks b;
	_Bool first;

	if (!chain || !state || !bits_of(ctx->dev_id) || is_frozen(state))
		return UBLK_BPF_IO_PASS;
	b = blocks_of(chain, ctx);
	/* a part of a block keeps its data, as with the server */
	if (ctx->op == UBLK_IO_OP_DISCARD && !whole_blocks(chain, ctx))
		return UBLK_BPF_IO_PASS;
	first = !all_present(ctx->dev_id, b);
	/* after the bits were seen: they may be new */
	if (!first && ctx->flags & UBLK_IO_F_FUA && !is_saved(state))
		return UBLK_BPF_IO_PASS;
	if (first && (ctx->op != UBLK_IO_OP_WRITE ||
		      ctx->flags & UBLK_IO_F_FUA || !whole_blocks(chain, ctx) ||
		      b.nr > (MAX_WORDS - 1) * 64 || is_busy(state, b)))
		return UBLK_BPF_IO_PASS;
	return ublk_bpf_queue_all_with(ctx, 0,
				       chain->top_offset +
				       ublk_bpf_start_bytes(ctx), first);
}

UBLK_BPF(clone)
{
	const struct ublk_bpf_clone *state;

	switch (ctx->op) {
	case UBLK_IO_OP_READ:
		return read(ctx);
	case UBLK_IO_OP_WRITE:
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		return change(ctx);
	case UBLK_IO_OP_FLUSH:
		state = shared_of(ctx->dev_id);
		if (!state || !is_saved(state))
			return UBLK_BPF_IO_PASS;
		ublk_bpf_queue_fsync(ctx, 0);
		return UBLK_BPF_IO_REDIRECT;
	default:
		return UBLK_BPF_IO_PASS;
	}
}

/*
 * Full barriers: of those whose result is not used clang makes instructions that
 * fetch nothing, which order nothing.
 */
static __always_inline void set_bits(__u64 *word, __u64 bits)
{
	__u64 before = __sync_fetch_and_or(word, bits);

	asm volatile("" : : "r"(before));
}

static __always_inline void count(__u64 *word)
{
	__u64 before = __sync_fetch_and_add(word, 1);

	asm volatile("" : : "r"(before));
}

/* that the file lacks the bit of this block; after the bit was set */
static __always_inline void mark(const struct ublk_bpf_clone_chain *chain,
				 void *bits, __u64 block)
{
	__u64 sector = block / UBLK_BPF_CLONE_SECTOR_BLOCKS, *word;

	word = word_at(bits, chain->nr_words + (sector >> 6));
	if (word)
		set_bits(word, 1ULL << (sector & 63));
}

/*
 * Their data is there: whoever reads from here on has it. Not if the disk's
 * entries have gone meanwhile.
 */
static __always_inline _Bool make_present(const struct ublk_bpf_ctx *ctx)
{
	const struct ublk_bpf_clone_chain *chain = chain_of(ctx->dev_id);
	struct ublk_bpf_clone *state = shared_of(ctx->dev_id);
	void *bits = bits_of(ctx->dev_id);
	__u64 first, last, nr, *word;
	struct blocks b;
	__u32 i;

	if (!chain || !state || !bits)
		return 0;
	b = blocks_of(chain, ctx);
	first = b.first;
	last = b.first + b.nr - 1;
	count(&state->begun);
	for (i = 0; i < MAX_WORDS && b.nr; i++) {
		word = word_at(bits, b.first >> 6);
		if (word)
			set_bits(word, mask_of(b.first, b.nr));
		nr = 64 - (b.first & 63);
		if (nr > b.nr)
			nr = b.nr;
		b.first += nr;
		b.nr -= nr;
	}
	/* fewer blocks than a sector of the bitmap has: in two of them at most */
	mark(chain, bits, first);
	mark(chain, bits, last);
	count(&state->done);
	return 1;
}

UBLK_BPF_COMPLETE(clone)
{
	__u64 done = ctx->user_data;

	if (ctx->result)
		return ctx->result;
	if (ctx->op == UBLK_IO_OP_WRITE && done && !make_present(ctx))
		return UBLK_BPF_IO_PASS;
	if (ctx->op != UBLK_IO_OP_READ || done >= ctx->nr_sectors)
		return 0;
	/* whoever has this many extents is read in one go by the server */
	if (ctx->round >= UBLK_BPF_MAX_ROUNDS)
		return UBLK_BPF_IO_PASS;
	return plan_read(ctx, done, 0);
}

char _license[] SEC("license") = "GPL";
