// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE of a block device that is open for direct I/O, as bios of the
 * request's own pages. It does what blkdev_read_iter() and blkdev_write_iter()
 * do in the common case, for half the instructions. What is not common (pages
 * of it in the device's cache, unaligned, read-only, swap) is left to these.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/pagemap.h>
#include "ublk_bpf_int.h"

static void ublk_bpf_bio_end_io(struct bio *bio)
{
	struct ublk_bpf_sqe *s = bio->bi_private;
	const bool nowait = bio->bi_opf & REQ_NOWAIT;
	long ret = s->len - s->done;

	if (unlikely(bio->bi_status))
		ret = blk_status_to_errno(bio->bi_status);
	bio_uninit(bio);
	ublk_bpf_rw_done(s, ret, nowait);
}

/*
 * Pages stay there for as long as anybody has the device open: those that a
 * partition scan has read, for one. Only those of the same place matter.
 */
static bool ublk_bpf_is_cached(struct address_space *mapping,
			       const struct ublk_bpf_sqe *s)
{
	return unlikely(mapping->nrpages) &&
		filemap_range_has_page(mapping, s->off + s->done,
				       s->off + s->len - 1);
}

static bool ublk_bpf_bio_fits(const struct ublk_bpf_file *f,
			      const struct ublk_bpf_sqe *s)
{
	struct address_space *mapping = f->bdev->bd_mapping;

	if (ublk_bpf_is_cached(mapping, s))
		return false;
	if ((s->off | s->len | s->done) & (bdev_logical_block_size(f->bdev) - 1))
		return false;
	return s->opcode == IORING_OP_READ ||
		!(bdev_read_only(f->bdev) || IS_SWAPFILE(mapping->host));
}

static blk_opf_t ublk_bpf_bio_opf(const struct ublk_bpf_req *req,
				  const struct ublk_bpf_file *f,
				  const struct ublk_bpf_sqe *s)
{
	const struct request *rq = req->rq;
	blk_opf_t opf;

	/*
	 * What the submitter says of its I/O holds below as well; unless bios
	 * of several were merged, of which some must not fail so easily.
	 */
	opf = req->opf & (REQ_META | REQ_PRIO | REQ_RAHEAD | REQ_FAILFAST_MASK);
	if (unlikely(opf) && rq && rq->rq_flags & RQF_MIXED_MERGE)
		opf &= ~(REQ_RAHEAD | REQ_FAILFAST_MASK);
	if (s->opcode == IORING_OP_READ)
		return opf | REQ_OP_READ | (req->opf & REQ_SYNC);
	/*
	 * Always, as direct I/O does it: it has been throttled for our own
	 * queue, and a worker that is throttled holds up what comes after it.
	 */
	opf |= REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
	/* FUA of the request does not hang on the program */
	if (req->opf & REQ_FUA || req->att->durable ||
	    f->ki_flags & IOCB_DSYNC ||
	    s->op_flags & (__force u32)UBLK_BPF_RW_FLAGS)
		opf |= REQ_FUA;
	return opf;
}

/* A clone of all the request's bios, which the block layer has no helper for */
static void ublk_bpf_init_merged(struct bio *bio,
				 const struct ublk_bpf_req *req)
{
	const struct bio *src = req->bio;

	bio_init(bio, NULL, NULL, 0, 0);
	bio_set_flag(bio, BIO_CLONED);
	bio->bi_io_vec = req->bvec;
	bio->bi_iter.bi_size = req->bytes;
	bio->bi_ioprio = src->bi_ioprio;
	bio->bi_write_hint = src->bi_write_hint;
}

bool __ublk_bpf_issue_bio(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			  bool nowait)
{
	const struct ublk_bpf_file *f = ublk_bpf_sqe_file(req, s);
	struct bio *bio = &req->bios[s->idx];

	if (unlikely(s->idx >= ublk_bpf_nr_bios(req)) ||
	    !ublk_bpf_bio_fits(f, s))
		return false;
	if (unlikely(req->bvec))
		ublk_bpf_init_merged(bio, req);
	else if (bio_init_clone(NULL, bio, req->bio, GFP_NOWAIT))
		return false;
	/* a clone for a device would find its blkg twice */
	bio->bi_bdev = f->bdev;
	bio_clone_blkg_association(bio, req->bio);

	bio->bi_opf = ublk_bpf_bio_opf(req, f, s) | (nowait ? REQ_NOWAIT : 0);
	if (unlikely(s->data_off + s->done))
		bio_advance_iter(bio, &bio->bi_iter, s->data_off + s->done);
	bio->bi_iter.bi_size = s->len - s->done;
	bio->bi_iter.bi_sector = (s->off + s->done) >> SECTOR_SHIFT;
	bio->bi_end_io = ublk_bpf_bio_end_io;
	bio->bi_private = s;
	submit_bio_noacct(bio);
	return true;
}
