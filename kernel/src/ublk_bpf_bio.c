// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE of a block device that is open for direct I/O, as bios of the
 * request's own pages. It does what blkdev_read_iter() and blkdev_write_iter()
 * do in the common case, for half the instructions. What is not common (pages
 * in the device's cache, unaligned, read-only, swap) is left to these.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <uapi/linux/io_uring.h>
#include "ublk_bpf_int.h"

static void ublk_bpf_bio_end_io(struct bio *bio)
{
	struct ublk_bpf_sqe *s = bio->bi_private;
	const bool nowait = bio->bi_opf & REQ_NOWAIT;
	int ret = blk_status_to_errno(bio->bi_status);

	bio_uninit(bio);
	ublk_bpf_rw_done(s, ret ?: s->len - s->done, nowait);
}

static bool ublk_bpf_bio_fits(const struct ublk_bpf_file *f,
			      const struct ublk_bpf_sqe *s)
{
	const struct inode *inode = f->bdev->bd_mapping->host;

	if (s->idx >= UBLK_BPF_NR_BIOS || f->bdev->bd_mapping->nrpages)
		return false;
	if ((s->off | s->len | s->done) & (bdev_logical_block_size(f->bdev) - 1))
		return false;
	return s->opcode == IORING_OP_READ ||
		!(bdev_read_only(f->bdev) || IS_SWAPFILE(inode));
}

static blk_opf_t ublk_bpf_bio_opf(const struct request *rq,
				  const struct ublk_bpf_file *f,
				  const struct ublk_bpf_sqe *s, bool durable)
{
	blk_opf_t opf;

	/*
	 * What the submitter says of its I/O holds below as well; unless bios
	 * of several were merged, of which some must not fail so easily.
	 */
	opf = rq->cmd_flags & (REQ_META | REQ_PRIO | REQ_RAHEAD |
			       REQ_FAILFAST_MASK);
	if (unlikely(opf) && rq->rq_flags & RQF_MIXED_MERGE)
		opf &= ~(REQ_RAHEAD | REQ_FAILFAST_MASK);
	/*
	 * What can be merged has been, for our own queue. A scheduler may find
	 * more; without one, looking for it is in vain.
	 */
	if (!bdev_get_queue(f->bdev)->elevator)
		opf |= REQ_NOMERGE;
	if (s->opcode == IORING_OP_READ)
		return opf | REQ_OP_READ;
	/*
	 * Always, as direct I/O does it: it has been throttled for our own
	 * queue, and a worker that is throttled holds up what comes after it.
	 */
	opf |= REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
	/* FUA of the request does not hang on the program */
	if (rq->cmd_flags & REQ_FUA || durable || f->ki_flags & IOCB_DSYNC ||
	    s->op_flags & (__force u32)UBLK_BPF_RW_FLAGS)
		opf |= REQ_FUA;
	return opf;
}

bool __ublk_bpf_issue_bio(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			  bool nowait)
{
	const struct ublk_bpf_file *f = &req->att->files[s->fd];
	struct request *rq = req->rq;
	struct bio *src = rq->bio, *bio;

	if (!ublk_bpf_bio_fits(f, s))
		return false;

	bio = &req->bios[s->idx];
	bio_init(bio, NULL, NULL, 0,
		 ublk_bpf_bio_opf(rq, f, s, req->att->durable) |
		 (nowait ? REQ_NOWAIT : 0));
	/* the bvecs are the request's */
	bio_set_flag(bio, BIO_CLONED);
	bio->bi_bdev = f->bdev;
	if (req->bvec) {
		bio->bi_io_vec = req->bvec;
		bio->bi_iter.bi_size = blk_rq_bytes(rq);
	} else {
		bio->bi_io_vec = src->bi_io_vec;
		bio->bi_iter = src->bi_iter;
	}
	if (unlikely(s->data_off + s->done))
		bio_advance_iter(bio, &bio->bi_iter, s->data_off + s->done);
	bio->bi_iter.bi_size = s->len - s->done;
	bio->bi_iter.bi_sector = (s->off + s->done) >> SECTOR_SHIFT;
	bio->bi_ioprio = req_get_ioprio(rq);
	bio->bi_write_hint = src->bi_write_hint;
	bio->bi_end_io = ublk_bpf_bio_end_io;
	bio->bi_private = s;
	bio_clone_blkg_association(bio, src);
	submit_bio_noacct(bio);
	return true;
}
