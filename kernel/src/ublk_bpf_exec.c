// SPDX-License-Identifier: GPL-2.0
/*
 * Executes a plan: issues its SQEs, in the submitter's context where that is
 * safe and from a worker otherwise, and says when all are done.
 *
 * Lifetime: an SQE that has been started holds a reference of its request
 * until ublk_bpf_sqe_done(), wherever it waits meanwhile. One that goes
 * through a file's operations is done when these have returned, too: they look
 * at the kiocb and the file after its completion. The request holds a
 * reference of the attachment's epoch, which is put before the request is
 * completed. Lanes and workqueues outlive every request.
 */
#include <linux/bio.h>
#include <linux/uio.h>
#include "ublk_bpf_int.h"

static void ublk_bpf_sqe_done(struct ublk_bpf_sqe *s, long ret);

/*
 * A file that does not know how not to wait fills a page cache, whatever it was
 * opened for: tmpfs does.
 */
static bool ublk_bpf_blocks(const struct ublk_bpf_req *req,
			    const struct ublk_bpf_sqe *s)
{
	const struct ublk_bpf_file *f = ublk_bpf_sqe_file(req, s);

	return !ublk_bpf_is_rw(s) || !f->direct ||
		(f->reg && !(f->file->f_mode & FMODE_NOWAIT));
}

static int ublk_bpf_issue_blocking(struct ublk_bpf_req *req,
				   struct ublk_bpf_sqe *s)
{
	struct file *file = ublk_bpf_sqe_file(req, s)->file;
	int ret;

	if (s->opcode == IORING_OP_FSYNC)
		return vfs_fsync(file, s->op_flags & IORING_FSYNC_DATASYNC);
	ret = vfs_fallocate(file, s->op_flags, s->off, s->len);
	if (!ret && req->att->durable)
		ret = vfs_fsync(file, 1);
	return ret;
}

static void ublk_bpf_issue_rw(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			      enum ublk_bpf_where where)
{
	if (!ublk_bpf_issue_bio(req, s, false))
		ublk_bpf_issue_iocb(req, s, where);
}

static void ublk_bpf_sqe_workfn(struct work_struct *work)
{
	struct ublk_bpf_sqe *s = container_of(work, struct ublk_bpf_sqe, work);
	struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);
	struct cgroup_subsys_state *memcg;
	struct mem_cgroup *old = NULL;
	struct ublk_bpf_worker w;

	ublk_bpf_enter_worker(&w);
	ublk_bpf_set_blkcg(&w, req->bio);
	memcg = ublk_bpf_enter_memcg(req->bio, &old);
	if (ublk_bpf_is_rw(s))
		ublk_bpf_issue_rw(req, s, UBLK_BPF_ALONE);
	else
		ublk_bpf_sqe_done(s, ublk_bpf_issue_blocking(req, s));
	ublk_bpf_leave_memcg(memcg, old);
	ublk_bpf_leave_worker(&w);
}

/* To a work of its own: it may block for long, and must not hold up a lane */
static void ublk_bpf_defer_alone(struct ublk_bpf_req *req,
				 struct ublk_bpf_sqe *s)
{
	struct ublk_bpf_dev *bd = req->att->bd;
	struct workqueue_struct *wq = bd->wq;

	/* reclaim may wait for a FLUSH, and a hardware queue has two at most */
	if (ublk_bpf_req_op(req) == REQ_OP_FLUSH &&
	    !ublk_bpf_sqe_file(req, s)->reg)
		wq = ublk_bpf_slow_queue(bd);
	INIT_WORK(&s->work, ublk_bpf_sqe_workfn);
	queue_work(wq, &s->work);
}

/* The lane of regular files, or of block devices */
static struct ublk_bpf_lane *ublk_bpf_req_lane(const struct ublk_bpf_req *req,
					       bool reg)
{
	const struct ublk_bpf_dev *bd = req->att->bd;
	unsigned int i;

	/* a bio has no hardware queue: the lanes are shared by processors */
	i = req->rq ? req->rq->mq_hctx->queue_num :
		      raw_smp_processor_id() % bd->nr_hw_queues;
	return &bd->lanes[i * 2 + reg];
}

/* Any context. The SQE, with its reference, is the worker's from here on */
static void ublk_bpf_defer(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s)
{
	struct ublk_bpf_dev *bd = req->att->bd;
	struct ublk_bpf_lane *lane;
	bool reg;

	this_cpu_inc(bd->stats->deferred);
	if (ublk_bpf_blocks(req, s)) {
		ublk_bpf_defer_alone(req, s);
		return;
	}
	reg = ublk_bpf_sqe_file(req, s)->reg;
	lane = ublk_bpf_req_lane(req, reg);
	/* a full barrier: the worker sees all that was written to the SQE */
	if (llist_add(&s->node, &lane->list))
		queue_work(ublk_bpf_lane_queue(bd, reg), &lane->work);
}

void ublk_bpf_lane_workfn(struct work_struct *work)
{
	struct ublk_bpf_lane *lane =
		container_of(work, struct ublk_bpf_lane, work);
	struct ublk_bpf_sqe *s, *next;
	struct ublk_bpf_worker w;
	struct llist_node *list;
	struct blk_plug plug;

	list = llist_reverse_order(llist_del_all(&lane->list));
	ublk_bpf_enter_worker(&w);
	blk_start_plug(&plug);
	llist_for_each_entry_safe(s, next, list, node) {
		struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);

		ublk_bpf_set_blkcg(&w, req->bio);
		ublk_bpf_issue_rw(req, s, UBLK_BPF_LANE);
		cond_resched();
	}
	blk_finish_plug(&plug);
	ublk_bpf_leave_worker(&w);
}

static void ublk_bpf_sqe_failed(struct ublk_bpf_sqe *s, long ret)
{
	struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);

	set_bit(s->idx, &req->failed);
	cmpxchg(&req->error, 0, ret);	/* the first error wins */
}

/*
 * Drops the SQE's reference, unless it has to be issued again, and starts or
 * gives up what is linked to it.
 */
static void ublk_bpf_sqe_done(struct ublk_bpf_sqe *s, long ret)
{
	struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);

	if (ublk_bpf_is_rw(s)) {
		if (ret == s->len - s->done) {
			ret = 0;
		} else if (ret > 0 && ret < s->len - s->done) {
			s->done += ret;
			ublk_bpf_defer(req, s);
			return;
		} else if (ret >= 0) {
			ret = -EIO;	/* end of file, or no progress */
		}
	}
	if (unlikely(ret < 0))
		ublk_bpf_sqe_failed(s, ret);

	/* a linked SQE got its reference together with the first of its chain */
	while (s->link) {
		s++;
		if (ret >= 0 && s->opcode != IORING_OP_NOP) {
			ublk_bpf_defer(req, s);
			break;
		}
		if (ret < 0)
			ublk_bpf_sqe_failed(s, ret);
		ublk_bpf_put_req(req);
	}
	ublk_bpf_put_req(req);
}

/* Of a READ or WRITE that is not just done */
void __ublk_bpf_rw_done(struct ublk_bpf_sqe *s, long ret, bool nowait)
{
	if ((ret == -EAGAIN || ret == -EOPNOTSUPP) && nowait)
		ublk_bpf_defer(ublk_bpf_sqe_req(s), s);
	else
		ublk_bpf_sqe_done(s, ret);
}

/*
 * Neither the file's operations nor its completion look at the kiocb any more,
 * so the SQE may be issued again, and the request and its file may go.
 */
static void ublk_bpf_iocb_done(struct ublk_bpf_sqe *s)
{
	struct kiocb *iocb = &s->iocb;

	if (iocb->ki_flags & IOCB_WRITE &&
	    ublk_bpf_sqe_file(ublk_bpf_sqe_req(s), s)->reg)
		kiocb_end_write(iocb);
	ublk_bpf_rw_done(s, s->ret, iocb->ki_flags & IOCB_NOWAIT);
}

/* Any context, and before ->read_iter() or ->write_iter() has returned, too */
static void ublk_bpf_ki_complete(struct kiocb *iocb, long ret)
{
	struct ublk_bpf_sqe *s = container_of(iocb, struct ublk_bpf_sqe, iocb);

	s->ret = ret;
	if (atomic_dec_and_test(&s->ref))
		ublk_bpf_iocb_done(s);
}

/* How many bvecs the request has; of a single bio enough of them, or more */
static unsigned int ublk_bpf_count_bvecs(const struct ublk_bpf_req *req)
{
	struct bio *bio = req->bio;
	struct bvec_iter iter;
	unsigned int nr = 0;
	struct bio_vec bv;

	/* of a bio that owns its bvecs, those from here on */
	if (!bio->bi_next && !bio_flagged(bio, BIO_CLONED))
		return bio->bi_vcnt - bio->bi_iter.bi_idx;
	for (; bio; bio = bio->bi_next)
		bio_for_each_bvec(bv, bio, iter)
			nr++;
	return nr;
}

static void ublk_bpf_init_iter(const struct ublk_bpf_req *req,
			       const struct ublk_bpf_sqe *s,
			       struct iov_iter *iter)
{
	const unsigned int dir = s->opcode == IORING_OP_WRITE ?
		ITER_SOURCE : ITER_DEST;
	const struct bio *bio = req->bio;
	const struct bio_vec *bv = req->bvec;

	if (bv) {
		iov_iter_bvec(iter, dir, bv, req->nr_bvec, req->bytes);
	} else {
		bv = __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter);
		iov_iter_bvec(iter, dir, bv, ublk_bpf_count_bvecs(req),
			      req->bytes);
		/* the bio may start in the middle of a bvec */
		iter->iov_offset = mp_bvec_iter_offset(bio->bi_io_vec,
						       bio->bi_iter) -
			bv->bv_offset;
	}
	if (unlikely(s->data_off + s->done))
		iov_iter_advance(iter, s->data_off + s->done);
	iov_iter_truncate(iter, s->len - s->done);
}

/*
 * Freeze protection of a regular file. False: it is frozen, and the SQE has
 * gone to where that may be waited for.
 */
static bool ublk_bpf_start_write(struct ublk_bpf_req *req,
				 struct ublk_bpf_sqe *s,
				 enum ublk_bpf_where where)
{
	struct super_block *sb = file_inode(s->iocb.ki_filp)->i_sb;

	if (where == UBLK_BPF_ALONE) {
		kiocb_start_write(&s->iocb);
		return true;
	}
	if (sb_start_write_trylock(sb)) {
		/* it is dropped by the completion, in whatever context */
		__sb_writers_release(sb, SB_FREEZE_WRITE);
		return true;
	}
	this_cpu_inc(req->att->bd->stats->deferred);
	ublk_bpf_defer_alone(req, s);
	return false;
}

static int ublk_bpf_ki_flags(const struct ublk_bpf_req *req,
			     const struct ublk_bpf_sqe *s,
			     enum ublk_bpf_where where)
{
	const struct ublk_bpf_file *f = ublk_bpf_sqe_file(req, s);
	int flags = f->ki_flags;

	/*
	 * Of a page cache (some direct I/O ends up there) what is there, and
	 * nothing else: no readahead.
	 */
	if (where == UBLK_BPF_INLINE)
		flags |= IOCB_NOWAIT |
			(s->opcode == IORING_OP_READ ? IOCB_NOIO : 0);
	if (s->op_flags & (__force u32)RWF_DSYNC)
		flags |= IOCB_DSYNC;
	if (s->op_flags & (__force u32)RWF_SYNC)
		flags |= IOCB_DSYNC | IOCB_SYNC;
	/* what the block layer asks for does not hang on the program */
	if (s->opcode == IORING_OP_WRITE &&
	    (req->opf & REQ_FUA || req->att->durable))
		flags |= IOCB_DSYNC;
	return flags;
}

/* Through the file's operations */
void ublk_bpf_issue_iocb(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s,
			 enum ublk_bpf_where where)
{
	const struct ublk_bpf_file *f = ublk_bpf_sqe_file(req, s);
	struct kiocb *iocb = &s->iocb;
	struct iov_iter iter;
	ssize_t ret;

	ublk_bpf_init_iter(req, s, &iter);
	*iocb = (struct kiocb) {
		.ki_filp	= f->file,
		.ki_pos		= s->off + s->done,
		.ki_complete	= ublk_bpf_ki_complete,
		.ki_flags	= ublk_bpf_ki_flags(req, s, where),
		.ki_ioprio	= req->bio ? req->bio->bi_ioprio : 0,
	};

	/* as the loop driver: one for us, as long as we are in there */
	atomic_set(&s->ref, 2);
	if (s->opcode == IORING_OP_READ) {
		ret = f->file->f_op->read_iter(iocb, &iter);
	} else {
		if (f->reg && !ublk_bpf_start_write(req, s, where))
			return;
		iocb->ki_flags |= IOCB_WRITE;
		ret = f->file->f_op->write_iter(iocb, &iter);
	}
	if (ret != -EIOCBQUEUED) {
		s->ret = ret;
		ublk_bpf_iocb_done(s);
	} else if (atomic_dec_and_test(&s->ref)) {
		ublk_bpf_iocb_done(s);
	}
}

static __always_inline void ublk_bpf_start_sqe(struct ublk_bpf_req *req,
					       struct ublk_bpf_sqe *s)
{
	/*
	 * Below submit_bio() a bio is only put on the list of bios that come
	 * next: neither stack nor locks of the submitter matter to it. But the
	 * rest of a bio that was split may be on that list already, and wait
	 * for a freeze there, which waits for us.
	 */
	if (likely(!req->rq && !req->split && current->bio_list &&
		   ublk_bpf_is_rw(s) &&
		   ublk_bpf_issue_bio(req, s, req->opf & REQ_NOWAIT)))
		return;
	if (s->opcode == IORING_OP_NOP)
		ublk_bpf_sqe_done(s, 0);
	else if (ublk_bpf_may_inline(req, s))
		ublk_bpf_issue_inline(req, s);
	else
		ublk_bpf_defer(req, s);
}

void __ublk_bpf_free_bvec(struct ublk_bpf_req *req)
{
	if (req->bvec_pool)
		mempool_free(req->bvec, req->att->bd->bvecs);
	else
		kfree(req->bvec);
	req->bvec = NULL;
}

/*
 * One array of all bvecs of a request of several bios, if there is none yet. False if
 * there is no memory for it, and @gfp does not allow to wait.
 */
bool __ublk_bpf_map_data(struct ublk_bpf_req *req, gfp_t gfp)
{
	const unsigned int nr = ublk_bpf_count_bvecs(req);
	struct bio *bio = req->bio;
	struct bvec_iter iter;
	struct bio_vec *bv, tmp;

	bv = kmalloc_array(nr, sizeof(*bv), GFP_NOWAIT | __GFP_NOWARN);
	req->bvec_pool = !bv;
	/* ublk_bpf_set_limits() has seen to it that they fit */
	if (!bv && !WARN_ON_ONCE(nr > BIO_MAX_VECS))
		bv = mempool_alloc(req->att->bd->bvecs, gfp);
	if (!bv)
		return false;
	req->nr_bvec = nr;
	req->bvec = bv;
	for (; bio; bio = bio->bi_next) {
		bio_for_each_bvec(tmp, bio, iter) {
			*bv = tmp;
			bv++;
		}
	}
	return true;
}

/* Remember what a later FLUSH has to FSYNC, before it is written */
static void ublk_bpf_note_write(struct ublk_bpf_att *att,
				const struct ublk_bpf_sqe *s)
{
	if (s->opcode != IORING_OP_WRITE && s->opcode != IORING_OP_FALLOCATE)
		return;
	if (unlikely(!test_bit(s->fd, &att->written)))
		set_bit(s->fd, &att->written);
}

void ublk_bpf_execute(struct ublk_bpf_req *req)
{
	struct ublk_bpf_att *att = req->att;
	const u8 nr = req->nr;
	bool linked = false;
	u8 i;

	if (likely(nr == 1)) {
		ublk_bpf_note_write(att, req->sqes);
		ublk_bpf_start_sqe(req, req->sqes);
		return;
	}

	/* one for us, so that the request and its SQEs stay */
	atomic_set(&req->ref, nr + 1);
	for (i = 0; i < nr; i++) {
		struct ublk_bpf_sqe *s = &req->sqes[i];
		const bool issue = !linked;

		linked = s->link;
		ublk_bpf_note_write(att, s);
		if (issue)
			ublk_bpf_start_sqe(req, s);
	}
	ublk_bpf_put_req(req);
}

static void ublk_bpf_execute_workfn(struct work_struct *work)
{
	struct ublk_bpf_sqe *s = container_of(work, struct ublk_bpf_sqe, work);
	struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);
	struct ublk_bpf_worker w;

	ublk_bpf_enter_worker(&w);
	ublk_bpf_set_blkcg(&w, req->bio);
	if (ublk_bpf_map_data(req, GFP_NOIO)) {
		ublk_bpf_execute(req);
	} else {
		/* more bvecs than the limits allow: nothing was started */
		req->error = -EIO;
		req->failed = BIT(req->nr) - 1;
		req->nr = 1;
		ublk_bpf_put_req(req);
	}
	ublk_bpf_leave_worker(&w);
}

/*
 * From a worker: for a request whose bvecs find no memory (the reserve is
 * waited for here and not by the submitter: bios of those who have it may sit
 * in its own lists), and for a plan that is made when another one is done,
 * which waits for nothing but requests of the backing.
 */
void ublk_bpf_execute_later(struct ublk_bpf_req *req)
{
	struct ublk_bpf_dev *bd = req->att->bd;

	INIT_WORK(&req->sqes[0].work, ublk_bpf_execute_workfn);
	queue_work(req->round ? ublk_bpf_lane_queue(bd, false) :
				ublk_bpf_slow_queue(bd), &req->sqes[0].work);
}
