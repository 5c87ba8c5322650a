// SPDX-License-Identifier: GPL-2.0
/*
 * What is attached to a device, and what becomes of it when it is replaced:
 * its requests end, then its files are synced, then they are let go. A work
 * does that, so that whoever waits for it can be killed, and holds no lock.
 *
 * Until the files are synced, they are owed: a FLUSH would be served by
 * somebody who does not know them. So it is held until all is paid that was
 * owed when it came, and fails if that cannot be.
 *
 * Requests hold epochs of an attachment. A drain ends an epoch, and the
 * attachment goes on with another one.
 */
#include <linux/blk-mq.h>
#include <linux/bpf.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include "ublk_bpf_int.h"

/*
 * Attach, detach, start and stop of all devices, as their programs' files make
 * one graph. FLUSHes wait for works that take it, so nobody who holds it waits
 * for I/O, nor for memory that I/O has to free.
 */
DEFINE_MUTEX(ublk_bpf_lock);

static void ublk_bpf_put_home(struct ublk_bpf_home *home)
{
	if (refcount_dec_and_test(&home->users))
		kfree(home);
}

int ublk_bpf_init_home(struct ublk_bpf_dev *bd)
{
	struct ublk_bpf_home *home = kzalloc_obj(*home, GFP_KERNEL);

	if (!home)
		return -ENOMEM;
	spin_lock_init(&home->lock);
	INIT_LIST_HEAD(&home->owed);
	INIT_LIST_HEAD(&home->held);
	refcount_set(&home->users, 1);
	home->bd = bd;
	bd->home = home;
	return 0;
}

/* The device goes, whatever is still owed: nobody is left who could flush it */
void ublk_bpf_exit_home(struct ublk_bpf_dev *bd)
{
	spin_lock_irq(&bd->home->lock);
	WARN_ON_ONCE(!list_empty(&bd->home->held));
	bd->home->bd = NULL;
	spin_unlock_irq(&bd->home->lock);
	ublk_bpf_put_home(bd->home);
}

/* Let go of program and files at once: whoever waits finds them closed */
static void ublk_bpf_release_att(struct ublk_bpf_att *att)
{
	u32 i;

	for (i = 0; i < att->nr_files; i++)
		__fput_sync(att->files[i].file);
	if (att->prog)
		bpf_prog_put(att->prog);
	if (att->complete)
		bpf_prog_put(att->complete);
}

/* Readers are gone when the last epoch is: see ublk_bpf_set_epoch() */
void ublk_bpf_put_att(struct ublk_bpf_att *att)
{
	if (refcount_dec_and_test(&att->users))
		kfree(att);
}

static void ublk_bpf_free_epoch(struct rcu_head *rcu)
{
	struct ublk_bpf_epoch *epoch =
		container_of(rcu, struct ublk_bpf_epoch, rcu);

	percpu_ref_exit(&epoch->ref);
	kfree(epoch);
}

/* Any context: what frees @ref must not run below it */
void ublk_bpf_put_epoch(struct ublk_bpf_epoch *epoch)
{
	if (refcount_dec_and_test(&epoch->users))
		call_rcu(&epoch->rcu, ublk_bpf_free_epoch);
}

/* What is attached, or NULL */
struct ublk_bpf_att *ublk_bpf_get_att(struct ublk_bpf_dev *bd)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_epoch *epoch;

	epoch = rcu_dereference_protected(bd->epoch,
					  lockdep_is_held(&ublk_bpf_lock));
	return epoch ? epoch->att : NULL;
}

/* One that was not published */
void ublk_bpf_free_att(struct ublk_bpf_att *att)
{
	ublk_bpf_release_att(att);
	ublk_bpf_put_att(att);
}

static int ublk_bpf_sync_files(struct ublk_bpf_att *att)
{
	unsigned int i;
	int ret, err = 0;

	for_each_set_bit(i, &att->written, UBLK_BPF_MAX_FILES) {
		ret = vfs_fsync(att->files[i].file, 1);
		err = err ?: ret;
	}
	return err;
}

/* What is looked at without the lock */
static void ublk_bpf_update(struct ublk_bpf_home *home)
	__must_hold(&home->lock)
{
	struct ublk_bpf_dev *bd = home->bd;
	const bool flush = !list_empty(&home->owed) || home->nr_released ||
		home->sync_failed != home->sync_reported;

	/* pairs with ublk_bpf_hold_flush() */
	smp_store_release(&bd->look_at_flush, flush);
	WRITE_ONCE(bd->active, bd->has_att || flush);
}

/* Requests that were held, off their list. With an error, they end by it */
static void ublk_bpf_let_go(struct list_head *list, int error)
{
	struct request *rq, *next;

	list_for_each_entry_safe(rq, next, list, queuelist) {
		list_del_init(&rq->queuelist);
		if (error) {
			blk_mq_start_request(rq);
			ublk_bpf_end_rq(rq, errno_to_blk_status(error));
		} else {
			blk_mq_requeue_request(rq, true);
		}
	}
}

/* Which FLUSHes have waited long enough: for what was owed when they came */
static void ublk_bpf_release_held(struct ublk_bpf_home *home,
				  struct list_head *list)
	__must_hold(&home->lock)
{
	struct ublk_bpf_att *oldest =
		list_first_entry_or_null(&home->owed, struct ublk_bpf_att, owed);
	struct request *rq, *next;

	list_for_each_entry_safe(rq, next, &home->held, queuelist) {
		struct ublk_bpf_req *req = ublk_bpf_rq_data(rq);

		if (oldest && oldest->owed_no <= req->held_no)
			continue;
		/* not again, whatever is owed by the time it comes back */
		req->released = true;
		home->nr_released++;
		list_move_tail(&rq->queuelist, list);
	}
}

/* The attachment's files are synced, or never will be */
static void ublk_bpf_settle(struct ublk_bpf_att *att)
{
	struct ublk_bpf_home *home = att->home;
	const int error = att->sync_error;
	LIST_HEAD(list);

	mutex_lock(&ublk_bpf_lock);
	spin_lock_irq(&home->lock);
	list_del(&att->owed);
	home->nr_owed--;
	if (error) {
		home->sync_error = error;
		home->sync_failed++;
		/* all that wait are told, or else the next one */
		if (!list_empty(&home->held))
			home->sync_reported = home->sync_failed;
		list_splice_init(&home->held, &list);
	} else {
		ublk_bpf_release_held(home, &list);
	}
	if (home->bd)
		ublk_bpf_update(home);
	spin_unlock_irq(&home->lock);
	mutex_unlock(&ublk_bpf_lock);
	ublk_bpf_let_go(&list, error);
}

static void ublk_bpf_retire_workfn(struct work_struct *work)
{
	struct ublk_bpf_att *att =
		container_of(work, struct ublk_bpf_att, retire);
	struct ublk_bpf_home *home = att->home;
	struct ublk_bpf_worker w;

	ublk_bpf_enter_worker(&w);
	if (!att->forget) {
		att->sync_error = ublk_bpf_sync_files(att);
		ublk_bpf_settle(att);
	}
	mutex_lock(&ublk_bpf_lock);
	ublk_bpf_be_gone(att);
	mutex_unlock(&ublk_bpf_lock);
	ublk_bpf_release_att(att);
	ublk_bpf_leave_worker(&w);
	complete_all(&att->retired);
	ublk_bpf_put_att(att);
	ublk_bpf_put_home(home);
}

/*
 * Any context. An epoch is done when those before it are: a drain waits for all
 * that was planned before it, also if others have begun to wait for it already.
 */
static void ublk_bpf_epoch_release(struct percpu_ref *ref)
{
	struct ublk_bpf_epoch *epoch =
		container_of(ref, struct ublk_bpf_epoch, ref);
	struct ublk_bpf_att *att = epoch->att;
	struct ublk_bpf_epoch *next;
	unsigned long flags;
	LIST_HEAD(done);
	bool last;

	spin_lock_irqsave(&att->lock, flags);
	epoch->gone = true;
	list_for_each_entry_safe(epoch, next, &att->epochs, node) {
		if (!epoch->gone)
			break;
		list_move_tail(&epoch->node, &done);
	}
	last = list_empty(&att->epochs);
	spin_unlock_irqrestore(&att->lock, flags);

	list_for_each_entry_safe(epoch, next, &done, node) {
		complete_all(&epoch->done);
		ublk_bpf_put_epoch(epoch);
	}
	/* the current one is only gone when something else is attached */
	if (last)
		ublk_bpf_queue_retire(att);
}

static void ublk_bpf_add_epoch(struct ublk_bpf_epoch *epoch)
{
	struct ublk_bpf_att *att = epoch->att;

	spin_lock_irq(&att->lock);
	list_add_tail(&epoch->node, &att->epochs);
	spin_unlock_irq(&att->lock);
}

void ublk_bpf_init_retire(struct ublk_bpf_att *att)
{
	INIT_WORK(&att->retire, ublk_bpf_retire_workfn);
	init_completion(&att->retired);
	refcount_set(&att->users, 1);
	spin_lock_init(&att->lock);
	INIT_LIST_HEAD(&att->epochs);
}

/* One that is not published: the caller has the only reference */
struct ublk_bpf_epoch *ublk_bpf_new_epoch(struct ublk_bpf_att *att)
{
	struct ublk_bpf_epoch *epoch = kzalloc_obj(*epoch, GFP_KERNEL);

	if (!epoch)
		return NULL;
	if (percpu_ref_init(&epoch->ref, ublk_bpf_epoch_release, 0,
			    GFP_KERNEL)) {
		kfree(epoch);
		return NULL;
	}
	init_completion(&epoch->done);
	refcount_set(&epoch->users, 1);
	epoch->att = att;
	return epoch;
}

/*
 * Publish an attachment's first @epoch, or NULL. What was published before
 * retires; it is returned with a reference, so that the caller can wait for
 * ->retired.
 *
 * The reference of requests is switched to atomic mode after a grace period,
 * so when the last one is gone all readers are gone that saw the old pointer.
 */
struct ublk_bpf_att *ublk_bpf_set_epoch(struct ublk_bpf_dev *bd,
					struct ublk_bpf_epoch *epoch,
					bool forget)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_home *home = bd->home;
	struct ublk_bpf_att *att = epoch ? epoch->att : NULL;
	struct ublk_bpf_att *old = ublk_bpf_get_att(bd);
	struct ublk_bpf_epoch *last;
	const bool sees_bios = att && ublk_bpf_wants_bios(att);

	if (att) {
		refcount_inc(&home->users);
		att->home = home;
		ublk_bpf_be_above(att);
		ublk_bpf_add_epoch(epoch);
	}
	spin_lock_irq(&home->lock);
	bd->has_att = att;
	if (old && !forget) {
		old->owed_no = ++home->last_no;
		list_add_tail(&old->owed, &home->owed);
		home->nr_owed++;
	}
	ublk_bpf_update(home);
	spin_unlock_irq(&home->lock);
	/* whoever sees the new pointer sees that something is owed */
	last = rcu_replace_pointer(bd->epoch, epoch,
				   lockdep_is_held(&ublk_bpf_lock));
	WRITE_ONCE(bd->merge, att && att->reg);
	if (bd->sees_bios != sees_bios) {
		WRITE_ONCE(bd->sees_bios, sees_bios);
		if (bd->disk)
			ublk_bpf_intercept(bd, sees_bios);
	}
	if (old) {
		old->forget = forget;
		refcount_inc(&old->users);
		percpu_ref_kill(&last->ref);
	}
	return old;
}

/*
 * Publish one more @epoch of what is attached. Returns the one that it ends,
 * with a reference, so that the caller can wait for ->done.
 */
struct ublk_bpf_epoch *ublk_bpf_next_epoch(struct ublk_bpf_dev *bd,
					   struct ublk_bpf_epoch *epoch)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_epoch *last;

	ublk_bpf_add_epoch(epoch);
	last = rcu_replace_pointer(bd->epoch, epoch,
				   lockdep_is_held(&ublk_bpf_lock));
	refcount_inc(&last->users);
	percpu_ref_kill(&last->ref);
	return last;
}

/* The youngest attachment that is owed, with a reference, or NULL */
struct ublk_bpf_att *ublk_bpf_last_owed(struct ublk_bpf_dev *bd)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_att *att = NULL;

	if (!list_empty(&bd->home->owed)) {
		att = list_last_entry(&bd->home->owed, struct ublk_bpf_att,
				      owed);
		refcount_inc(&att->users);
	}
	return att;
}

/*
 * The last epoch of an attachment that is owed, has requests, and is none of
 * those after @no; with a reference. Or NULL
 */
struct ublk_bpf_epoch *ublk_bpf_owed_epoch(struct ublk_bpf_dev *bd, u64 no)
	__must_hold(&ublk_bpf_lock)
{
	struct ublk_bpf_epoch *epoch = NULL;
	struct ublk_bpf_att *att;

	list_for_each_entry(att, &bd->home->owed, owed) {
		if (att->owed_no > no)
			break;
		spin_lock_irq(&att->lock);
		if (!list_empty(&att->epochs)) {
			epoch = list_last_entry(&att->epochs,
						struct ublk_bpf_epoch, node);
			refcount_inc(&epoch->users);
		}
		spin_unlock_irq(&att->lock);
		if (epoch)
			break;
	}
	return epoch;
}

/*
 * A FLUSH while something is owed, or after it could not be paid. The caller
 * has read the attachment, and may have found none. False: go on with it.
 * @refuse: it will fail without being served, but not by us
 */
bool __ublk_bpf_hold_flush(struct ublk_bpf_dev *bd, struct request *rq,
			   bool refuse)
{
	struct ublk_bpf_req *req = ublk_bpf_rq_data(rq);
	struct ublk_bpf_home *home = bd->home;
	unsigned long flags;
	bool held = false;
	int error = 0;

	spin_lock_irqsave(&home->lock, flags);
	if (req->released) {
		req->released = false;
		home->nr_released--;
	} else if (refuse) {
		/* nothing is promised */
	} else if (home->sync_failed != home->sync_reported) {
		home->sync_reported = home->sync_failed;
		error = home->sync_error;
	} else if (!list_empty(&home->owed) && ublk_bpf_stopping(bd)) {
		error = -EIO;
	} else if (!list_empty(&home->owed)) {
		req->held_no = home->last_no;
		list_add_tail(&rq->queuelist, &home->held);
		held = true;
	}
	ublk_bpf_update(home);
	spin_unlock_irqrestore(&home->lock, flags);
	if (!error)
		return held;
	blk_mq_start_request(rq);
	ublk_bpf_end_rq(rq, errno_to_blk_status(error));
	return true;
}

/*
 * Before anything else is done to stop the device: it will wait for requests,
 * and these for files that may be dead.
 */
void ublk_bpf_begin_stop(struct ublk_bpf_dev *bd)
{
	LIST_HEAD(list);

	spin_lock_irq(&bd->home->lock);
	WRITE_ONCE(bd->stopping, true);
	list_splice_init(&bd->home->held, &list);
	spin_unlock_irq(&bd->home->lock);
	ublk_bpf_let_go(&list, -EIO);
}
EXPORT_SYMBOL_GPL(ublk_bpf_begin_stop);
