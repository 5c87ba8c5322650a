// SPDX-License-Identifier: GPL-2.0
/*
 * SQEs in the context of whoever submitted the bio: when that is safe, and what
 * of that context has to be set aside meanwhile.
 */
#include <linux/blkdev.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include "ublk_bpf_int.h"

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
 * itself, unless another device's program is one of them. A claim is made
 * before the claimant's first I/O.
 */
static bool ublk_bpf_unclaimed(const struct ublk_bpf_req *req)
{
	const struct ublk_bpf_dev *bd = req->att->bd;

	return !READ_ONCE(bd->disk->part0->bd_holder) &&
		!READ_ONCE(bd->nr_above);
}

/*
 * Who reads data holds locks that come before those of a file that is read (of
 * inodes and of page caches, of which the latter are not wanted, and the former
 * only if nobody holds them), and nothing waits for what it holds but for its
 * own data. Who reads metadata may hold the very locks that a file system needs
 * to find a file's blocks; not all of it says that it is metadata, but what
 * does not goes by way of the block device's page cache. A write is worse:
 * reclaim may wait for it, with the backing file system's locks held.
 */
static bool ublk_bpf_reads_data(const struct ublk_bpf_req *req)
{
	struct bio *bio = req->bio;
	struct address_space *mapping;
	struct inode *host = NULL;
	struct folio *folio;
	bool blk;

	if (req->opf & (REQ_META | REQ_PRIO))
		return false;
	folio = page_folio(bio_iter_page(bio, bio->bi_iter));
	rcu_read_lock();
	/* the memory may be of any kind, and leave its cache meanwhile */
	mapping = READ_ONCE(folio->mapping);
	if (mapping && !folio_test_slab(folio) && !folio_test_anon(folio) &&
	    IS_ALIGNED((unsigned long)mapping, sizeof(long)))
		host = READ_ONCE(mapping->host);
	blk = host && S_ISBLK(host->i_mode);
	rcu_read_unlock();
	return !blk;
}

/* What may be done in the context of whoever submitted the bio */
static u8 ublk_bpf_submitter_may(const struct ublk_bpf_req *req)
{
	u8 may = 0;

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
	if (ublk_bpf_unclaimed(req))
		may |= UBLK_BPF_UNCLAIMED | UBLK_BPF_MAY_READ_FILE;
	else if (ublk_bpf_reads_data(req))
		may |= UBLK_BPF_MAY_READ_FILE;
	return may;
}

/*
 * May the SQE be issued on the stack and with the locks of whoever submitted
 * the bio?
 */
bool ublk_bpf_may_inline(const struct ublk_bpf_req *req,
			 const struct ublk_bpf_sqe *s)
{
	const struct ublk_bpf_file *f = ublk_bpf_sqe_file(req, s);
	u8 needs;

	if (s->opcode == IORING_OP_READ)
		needs = f->inline_read;
	else if (s->opcode == IORING_OP_WRITE)
		needs = f->inline_write;
	else
		return false;
	return !(needs & ~ublk_bpf_submitter_may(req));
}

/*
 * In ->queue_rq() we may be called for the requests on current->plug, so
 * nothing can be added to it meanwhile. Its cached time is forgotten with it:
 * the scheduler looks for it in the current plug. Requests should not sleep
 * for long here.
 */
static void ublk_bpf_issue_from_queue(struct ublk_bpf_req *req,
				      struct ublk_bpf_sqe *s)
{
	struct blk_plug *plug = current->plug;

	if (plug) {
		plug->cur_ktime = 0;
		current->flags &= ~PF_BLOCK_TS;
		barrier();
		current->plug = NULL;
	}
	if (!ublk_bpf_issue_bio(req, s, true))
		ublk_bpf_issue_iocb(req, s, UBLK_BPF_INLINE);
	current->plug = plug;
}

/*
 * The list of whoever submitted the bio that we serve is out of the way: a file
 * system could wait for a bio of its own that is put there, and the rest of
 * our bio, which may be there, could wait for a freeze that waits for us.
 */
void ublk_bpf_issue_inline(struct ublk_bpf_req *req, struct ublk_bpf_sqe *s)
{
	struct bio_list *bio_list = current->bio_list;
	const unsigned int noio = memalloc_noio_save();

	current->bio_list = NULL;
	if (req->rq)
		ublk_bpf_issue_from_queue(req, s);
	else if (!ublk_bpf_issue_bio(req, s, req->opf & REQ_NOWAIT))
		ublk_bpf_issue_iocb(req, s, UBLK_BPF_INLINE);
	current->bio_list = bio_list;
	memalloc_noio_restore(noio);
}
