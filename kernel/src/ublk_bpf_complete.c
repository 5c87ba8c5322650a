// SPDX-License-Identifier: GPL-2.0
/*
 * What becomes of a request when its plan is done: it completes, or the
 * completion program says that it does so with another result, that another
 * plan is to be executed, or that the server is to serve it.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include "ublk_bpf_int.h"

/* The request is the attachment's no more. Returns its device */
static __always_inline struct ublk_bpf_dev *
ublk_bpf_let_go_of(struct ublk_bpf_req *req)
{
	struct ublk_bpf_dev *bd = req->att->bd;

	ublk_bpf_free_bvec(req);
	WRITE_ONCE(req->att, NULL);
	percpu_ref_put(&req->epoch->ref);
	return bd;
}

static void ublk_bpf_finish(struct ublk_bpf_req *req, int error)
{
	blk_status_t sts = BLK_STS_OK;

	if (unlikely(error)) {
		this_cpu_inc(req->att->bd->stats->failed);
		/* no more of what was read is shown than of what was not */
		if (ublk_bpf_req_op(req) == REQ_OP_READ)
			ublk_bpf_zero_data(req);
		/* BLK_STS_AGAIN is for those who asked for REQ_NOWAIT */
		sts = error == -EAGAIN ? BLK_STS_IOERR :
					 errno_to_blk_status(error);
	}
	ublk_bpf_let_go_of(req);
	ublk_bpf_end(req, sts);
}

static void ublk_bpf_bio_to_server(struct work_struct *work)
{
	struct ublk_bpf_sqe *s = container_of(work, struct ublk_bpf_sqe, work);
	struct ublk_bpf_req *req = ublk_bpf_sqe_req(s);
	struct bio *bio = req->bio;
	struct request_queue *q = bdev_get_queue(bio->bi_bdev);
	struct ublk_bpf_worker w;
	struct ublk_bpf_dev *bd;

	ublk_bpf_enter_worker(&w);
	bd = ublk_bpf_let_go_of(req);
	ublk_bpf_mark_bio(bio, req->server);
	/* somebody else waits, and nobody for us */
	bio->bi_opf &= ~REQ_NOWAIT;
	ublk_bpf_free_bio_req(req);
	/* before it is entered again, as somebody may be freezing it */
	percpu_ref_put(&q->q_usage_counter);
	/* who has submitted the bio has the device open, so it is still there */
	ublk_bpf_to_mq(bd, bio);
	ublk_bpf_leave_worker(&w);
}

/* Any context. The request goes to the server, whatever is attached by then */
static void ublk_bpf_to_server(struct ublk_bpf_req *req,
			       enum ublk_bpf_server server)
{
	struct request *rq = req->rq;

	req->server = server;
	if (!rq) {
		/* which may wait for the server: only our own works with it */
		INIT_WORK(&req->sqes[0].work, ublk_bpf_bio_to_server);
		queue_work(req->att->bd->wq, &req->sqes[0].work);
		return;
	}
	rq->rq_flags |= RQF_DONTPREP;
	ublk_bpf_let_go_of(req);
	blk_mq_requeue_request(rq, true);
}

/* An error that nobody makes good */
static void ublk_bpf_fail(struct ublk_bpf_req *req, int error)
{
	if (!(req->att->flags & UBLK_BPF_ATTACH_F_PASS_ERRORS)) {
		ublk_bpf_finish(req, error);
		return;
	}
	this_cpu_inc(req->att->bd->stats->errors_passed);
	ublk_bpf_to_server(req, UBLK_BPF_FAILED);
}

/* The completion program's PASS. The server is told if there was an error */
static void ublk_bpf_pass_late(struct ublk_bpf_req *req, int error)
{
	this_cpu_inc(req->att->bd->stats->passed_late);
	ublk_bpf_to_server(req, error ? UBLK_BPF_FAILED : UBLK_BPF_PASSED_LATE);
}

/* What could not be read shows nothing, if the program lets it complete */
static void ublk_bpf_zero_failed(struct ublk_bpf_req *req)
{
	unsigned int i;

	if (ublk_bpf_req_op(req) != REQ_OP_READ)
		return;
	for_each_set_bit(i, &req->failed, UBLK_BPF_MAX_SQES) {
		const struct ublk_bpf_sqe *s = &req->sqes[i];

		if (s->opcode == IORING_OP_READ)
			ublk_bpf_zero_range(req, s->data_off, s->len);
	}
}

static void ublk_bpf_one_more_round(struct ublk_bpf_ctx_kern *kctx)
{
	struct ublk_bpf_req *req = kctx->req;
	enum ublk_bpf_reason reason = UBLK_BPF_REFUSED_VERDICT;

	if (req->round < UBLK_BPF_MAX_ROUNDS)
		reason = ublk_bpf_check_plan(kctx);
	if (reason) {
		ublk_bpf_refuse(kctx, reason, UBLK_BPF_IO_REDIRECT);
		ublk_bpf_fail(req, -EIO);
		return;
	}
	this_cpu_inc(kctx->att->bd->stats->rounds);
	if (kctx->ctx.result)
		this_cpu_inc(kctx->att->bd->stats->retries);
	this_cpu_add(kctx->att->bd->stats->more_sqes, req->nr);
	req->error = 0;
	req->failed = 0;
	ublk_bpf_execute_later(req);
}

static noinline void ublk_bpf_ask(struct ublk_bpf_req *req)
{
	struct ublk_bpf_ctx_kern kctx __uninitialized;
	int verdict;

	kctx.req = req;
	kctx.att = req->att;
	ublk_bpf_init_ctx(&kctx);
	kctx.ctx.round = ++req->round;
	kctx.ctx.failed = req->failed;
	kctx.ctx.result = req->error;
	kctx.ctx.user_data = req->user_data;
	if (unlikely(req->error))
		ublk_bpf_zero_failed(req);
	req->nr = 0;
	req->refused = false;
	req->user_data = 0;
	rcu_read_lock();
	verdict = ublk_bpf_face_run(kctx.att->complete, &kctx);
	rcu_read_unlock();

	if (likely(!verdict)) {
		ublk_bpf_finish(req, 0);
	} else if (verdict < 0 && verdict >= -MAX_ERRNO) {
		ublk_bpf_fail(req, verdict);
	} else if (verdict == UBLK_BPF_IO_PASS) {
		ublk_bpf_pass_late(req, kctx.ctx.result);
	} else if (verdict == UBLK_BPF_IO_REDIRECT) {
		ublk_bpf_one_more_round(&kctx);
	} else {
		ublk_bpf_refuse(&kctx, UBLK_BPF_REFUSED_VERDICT, verdict);
		ublk_bpf_fail(req, -EIO);
	}
}

/* All SQEs of the plan are done. Any context */
void ublk_bpf_plan_done(struct ublk_bpf_req *req)
{
	if (req->att->complete)
		ublk_bpf_ask(req);
	else if (unlikely(req->error))
		ublk_bpf_fail(req, req->error);
	else
		ublk_bpf_finish(req, 0);
}
