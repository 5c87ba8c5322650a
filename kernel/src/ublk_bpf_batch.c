// SPDX-License-Identifier: GPL-2.0
/*
 * What the requests of one ->queue_rqs() share: a plug of ours, what their
 * submitter allows, requests that the backing allocates together, and their
 * completion, as far as they are done when the batch ends.
 */
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include "ublk_bpf_int.h"

/* Requests that the backing is told of before they are issued to it */
#define UBLK_BPF_NR_ANNOUNCED	16U

#ifdef CONFIG_STACK_GROWSUP
static inline bool ublk_bpf_low_stack(void)
{
	return true;
}
#else
/* Devices stack, and so do their submitters' frames */
static inline bool ublk_bpf_low_stack(void)
{
	return current_stack_pointer - (unsigned long)end_of_stack(current) <
		THREAD_SIZE / 2;
}
#endif

/*
 * Does the submitter hold nothing that a file system could want? Whoever has
 * claimed the device (a file system on it, swap, device mapper) may submit with
 * locks of the same classes as the backing file system's, and in the middle of
 * a transaction. If nobody has, requests come from users of the block device
 * itself. A claim is made before the claimant's first I/O.
 */
static bool ublk_bpf_unclaimed(const struct request *rq)
{
	return !READ_ONCE(rq->q->disk->part0->bd_holder);
}

/*
 * What may be done in the context of whoever submitted the bio. It is the same
 * for all requests of a batch, as they are of one task and one device.
 */
u8 ublk_bpf_submitter_may(const struct request *rq)
{
	u8 may = UBLK_BPF_ASKED;

	if (current->flags & PF_MEMALLOC || ublk_bpf_low_stack())
		return may;
	may |= UBLK_BPF_MAY_ISSUE;
	/*
	 * A file system may take current->journal_info for its own, and would
	 * signal this task for a write beyond its RLIMIT_FSIZE.
	 */
	if (!current->journal_info)
		may |= UBLK_BPF_MAY_ENTER_FS;
	if (rlimit(RLIMIT_FSIZE) == RLIM_INFINITY)
		may |= UBLK_BPF_MAY_WRITE_FILE;
	if (ublk_bpf_unclaimed(rq))
		may |= UBLK_BPF_UNCLAIMED;
	return may;
}

static void ublk_bpf_end_requests(struct io_comp_batch *done)
{
	local_bh_disable();	/* as in ublk_bpf_end_rq() */
	blk_mq_end_request_batch(done);
	local_bh_enable();
}

/*
 * To be called before anything that may wait for memory that the collected
 * requests would give back, as a file system may.
 */
void ublk_bpf_end_collected(struct ublk_bpf_batch *batch)
{
	if (batch->lane && !rq_list_empty(&batch->lane->done.req_list))
		ublk_bpf_end_requests(&batch->lane->done);
}

/* NULL: some other task collects, and this one does without */
static struct ublk_bpf_lane *ublk_bpf_claim_lane(const struct ublk_bpf_req *req)
{
	struct ublk_bpf_lane *lane = ublk_bpf_done_lane(req->att->bd, req->rq);

	if (READ_ONCE(lane->submitter) ||
	    cmpxchg(&lane->submitter, NULL, current))
		return NULL;
	lane->done = (struct io_comp_batch) { };
	return lane;
}

/*
 * We may be called for the requests on current->plug, so nothing can be added
 * to it meanwhile. Its cached time is forgotten with it: the scheduler looks
 * for it in the current plug.
 */
void ublk_bpf_open_batch(struct ublk_bpf_batch *batch,
			 const struct ublk_bpf_req *req)
{
	struct blk_plug *outer = current->plug;
	struct request *rq;

	if (outer) {
		outer->cur_ktime = 0;
		current->flags &= ~PF_BLOCK_TS;
		barrier();
		current->plug = NULL;
	}
	batch->outer = outer;
	batch->noio = memalloc_noio_save();
	batch->lane = NULL;
	batch->nr = 0;
	batch->open = true;
	if (!batch->rqs)
		return;

	blk_start_plug(&batch->plug);
	batch->nr = 1;
	rq_list_for_each(batch->rqs, rq)
		batch->nr++;
	batch->lane = ublk_bpf_claim_lane(req);
}

void __ublk_bpf_end_batch(struct ublk_bpf_batch *batch)
{
	struct ublk_bpf_lane *lane = batch->lane;
	struct io_comp_batch done;

	if (batch->rqs)
		blk_finish_plug(&batch->plug);
	memalloc_noio_restore(batch->noio);
	current->plug = batch->outer;
	batch->open = false;
	if (!lane)
		return;
	/* they may be the last requests of the device, and so of the lane */
	done = lane->done;
	/* who claims it next writes to it only after that */
	smp_store_release(&lane->submitter, NULL);
	if (!rq_list_empty(&done.req_list))
		ublk_bpf_end_requests(&done);
}
EXPORT_SYMBOL_GPL(__ublk_bpf_end_batch);

/*
 * Let the backing take requests for some of what is to come at once. Not for
 * all: tags that lie together are found for a few, not for many.
 */
void ublk_bpf_announce(struct ublk_bpf_batch *batch)
{
	struct blk_plug *plug = &batch->plug;

	/* what was announced before is used up when both are as at the start */
	if (plug->nr_ios > 1 || !rq_list_empty(&plug->cached_rqs))
		return;
	plug->nr_ios = min(batch->nr, UBLK_BPF_NR_ANNOUNCED);
	batch->nr -= plug->nr_ios;
}
