// SPDX-License-Identifier: GPL-2.0-only
/*
 * Marks which granules of the tracked disks were written.
 *
 * A write is marked twice: when its bio is queued, so that a drain never comes too early to see it, and when it has
 * landed, so that a granule which was drained, cleared and read while the write was still in flight is dirty again.
 * On request-based disks "landed" is block_rq_complete, which carries the range. On bio-based disks (dm, md, zram,
 * pmem, NVMe multipath heads) it is block_bio_complete, whose bio has been advanced past its range; the range is
 * therefore remembered under the bio's address from queue to completion (see landed()).
 *
 * All programs are tp_btf. Classic tracepoint programs are skipped while any other BPF program runs on the CPU; typed
 * raw tracepoints are guarded per program, and what that guard skips the kernel counts (recursion_misses). Every hook
 * has a second program, the understudy, for the events on which the guard skipped the first (see understudy()).
 *
 * The bitmap of a disk is a hierarchy in one array of words: level 0 has a bit for each granule, level k a bit for each
 * 64^k granules. A range sets at most two partial words per level, whatever its length, and the last level is one
 * word, so a discard of a whole disk costs as much as a write of two granules. User space expands the upper levels
 * (replicad/tracker/bitmap.py holds the same algorithm in Python, and a test compares the two). Behind the levels a
 * summary has a bit for each page (512 words) that is not all zero, so that draining an idle disk reads one page.
 *
 * Structure definitions are our own and minimal; CO-RE relocates the field offsets when the object is loaded.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

typedef __u32 u32;
typedef __u64 u64;

/* Limits. MAX_SLOTS and LEVELS are part of the layout that user space maps: see replicad/tracker/layout.py. */
#define MAX_SLOTS 128      /* disks tracked at a time by one daemon */
#define LEVELS 6	   /* 64^6 granules of 4 KiB are 256 TiB; level 0 is at most 32 MiB, which needs 5 */
#define MAX_RANGES 256	   /* discard ranges of one request: MAX_DISCARD_SEGMENTS of the kernel is 256 */
#define MAX_BIOS 1024	   /* bios of one request: BIO_MAX_VECS * 4; beyond it a miss is counted */
#define MAX_STACK 8	   /* layers between a bio and the disk it lands on that remap without cloning */
#define MAX_IN_FLIGHT 65536 /* writes in flight on all bio-based disks together; beyond it a miss is counted */
#define RECORDS 8	   /* entries of the per-CPU table in which a first program tells its understudy what it did */

#define OP_MASK 0xff	   /* REQ_OP_MASK, since 4.10 */
#define OP_WRITE 1	   /* REQ_OP_WRITE and REQ_OP_DISCARD have had these numbers since 4.8 */
#define OP_DISCARD 3
#define OP_PASSTHROUGH 32  /* REQ_OP_SCSI_IN/OUT (to 5.15) and REQ_OP_DRV_IN/OUT are the operations from 32 up */

#define REF_STACKED (1u << 31)
#define REF_SLOT(ref) ((u32)(ref) & (REF_STACKED - 1))
#define REF_GENERATION(ref) ((u32)((ref) >> 32))

/* ---- the kernel's structures, as far as they are read ---- */

#define RELOCATED __attribute__((preserve_access_index))

struct gendisk {
	int major;
	int first_minor;
} RELOCATED;

struct block_device {
	struct gendisk *bd_disk;
} RELOCATED;

struct request_queue {
	struct gendisk *disk; /* since 5.15 */
} RELOCATED;

struct bvec_iter {
	u64 bi_sector;
	u32 bi_size;
} RELOCATED;

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev; /* since 5.12 */
	u32 bi_opf;
	struct bvec_iter bi_iter;
	void *bi_end_io;
	void *bi_private;
} RELOCATED;

struct bio___with_disk {
	struct gendisk *bi_disk; /* to 5.11 */
} RELOCATED;

struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
} RELOCATED;

struct request___with_disk {
	struct gendisk *rq_disk; /* to 5.16 */
} RELOCATED;

/* The numbers of the zone operations have moved; 6.0 renamed the enumeration. */
enum req_op {
	REQ_OP_ZONE_OPEN,
	REQ_OP_ZONE_CLOSE,
	REQ_OP_ZONE_FINISH,
};

enum req_opf {
	REQ_OP_ZONE_OPEN___opf,
	REQ_OP_ZONE_CLOSE___opf,
	REQ_OP_ZONE_FINISH___opf,
};

extern const void bio_chain_endio __ksym __weak;

/* ---- maps: the layout is replicad/tracker/layout.py's ---- */

struct slot {
	/* written by user space */
	u32 generation; /* of the slot's owner; 0: free */
	u32 active;	/* which of the two bitmaps is being marked */
	u64 sectors;
	u32 shift; /* sectors per granule, log2 */
	u32 dev;
	u32 base[LEVELS]; /* first word of each level */
	u32 summary;	  /* first word of the summary */
	u32 flags;
	u64 user[8];
	u64 reserved;
	/* written here, on a cache line of its own */
	u64 passthrough; /* writes whose range only the driver knows */
	u64 lost;	 /* marks that did not fit the bitmap: the disk grew, or a bug */
	u64 unmatched;	 /* writes to a bio-based disk that ended without a remembered range */
	u64 counters_reserved[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* Whole disk -> generation << 32 | REF_STACKED | slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, u64);
} index_of SEC(".maps");

struct words {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
};

/* Two bitmaps per slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * MAX_SLOTS);
	__type(key, u32);
	__array(values, struct words);
} bitmaps SEC(".maps");

struct state {
	u64 stacked;	     /* tracked bio-based disks; written by user space */
	u64 insert_failures; /* writes in flight that could not be remembered */
	u64 long_requests;   /* requests of more than MAX_BIOS bios while bio-based disks were tracked */
	u64 rescued[3];	     /* events that an understudy handled because its first program was skipped, by hook */
	u64 reserved[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} state SEC(".maps");

struct cpu {
	u64 readers; /* marks in progress on this CPU */
	u64 reserved[7];
	u64 done[3][RECORDS]; /* by hook: the event that the first program handled last */
};

/* max_entries is set to the number of possible CPUs before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu);
} cpus SEC(".maps");

struct write {
	u64 ref;
	u64 sector;
	u64 bytes;
	u64 pending; /* bytes that have not landed */
	u64 own;     /* the bio itself, not only parts of it, was sent on to a request-based disk */
};

/* Address of a bio -> the write to a bio-based disk that it carries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IN_FLIGHT);
	__type(key, u64);
	__type(value, struct write);
} in_flight SEC(".maps");

/* Who owns the pins: only user space reads and writes it. */
struct meta {
	unsigned char instance[16];
	unsigned char object[32];
	u32 layout;
	u32 path_length;
	char path[4096];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct meta);
} meta SEC(".maps");

/* ---- marking ---- */

static __always_inline struct state *the_state(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&state, &zero);
}

static __always_inline struct cpu *this_cpu(void)
{
	u32 id = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &id);
}

static __always_inline struct slot *slot_of(u64 ref)
{
	u32 id = REF_SLOT(ref);

	return bpf_map_lookup_elem(&slots, &id);
}

/*
 * Sets the bits of mask; the atomic is skipped when they are already set. That cannot lose a mark: a bit of the active
 * bitmap disappears only after user space has made the other one active, has seen every marker that began before end
 * (see mark()), and has handed the bits on. A marker that found the bit set began before, so its mark is among them.
 * The same holds for the summary, whose bit another CPU may be about to set: that CPU is waited for as well.
 */
static __always_inline int set_bits(void *map, u32 word, u64 mask)
{
	u64 *at = bpf_map_lookup_elem(map, &word);

	if (!at)
		return 0;
	if ((*(volatile u64 *)at & mask) != mask)
		__sync_fetch_and_or(at, mask);
	return 1;
}

static __always_inline int mark_word(void *map, struct slot *slot, u32 word, u64 mask)
{
	u64 *at = bpf_map_lookup_elem(map, &word);

	if (!at)
		return 0;
	if ((*(volatile u64 *)at & mask) == mask)
		return 1;
	__sync_fetch_and_or(at, mask);
	return set_bits(map, slot->summary + (word >> 15), 1ull << ((word >> 9) & 63));
}

/* Marks granules [first, end) in the active bitmap; 0 if a word was outside of it. */
static __always_inline int mark_granules(struct slot *slot, u32 id, u64 first, u64 end)
{
	u32 key = 2 * id + (*(volatile u32 *)&slot->active & 1);
	void *map = bpf_map_lookup_elem(&bitmaps, &key);
	int fits = 1;

	if (!map)
		return 0;
#pragma unroll
	for (int level = 0; level < LEVELS; level++) {
		u32 base = slot->base[level];
		u64 head = first >> 6, tail = (end - 1) >> 6;
		u64 from = ~0ull << (first & 63), to = ~0ull >> (63 - ((end - 1) & 63));

		if (head == tail)
			return fits & mark_word(map, slot, base + head, from & to);
		if (first & 63) {
			fits &= mark_word(map, slot, base + head, from);
			head++;
		}
		if (end & 63)
			fits &= mark_word(map, slot, base + tail, to);
		else
			tail++;
		if (head >= tail)
			return fits;
		first = head;
		end = tail;
	}
	return 0; /* the last level is one word, so this is a bug of user space */
}

/*
 * Marks the granules that bytes from sector touch; bytes = ~0 means to the end of the disk.
 *
 * The readers count is what a drain waits for after it has made the other bitmap active: it needs each CPU's count to
 * be zero once. Both the increment here and the barrier between flip and look there are full, so either this program
 * sees the flip or the drain sees this program (Dekker). The decrement is full too: whoever sees zero sees the bits.
 *
 * A global function: the verifier checks it once, not once per caller and iteration.
 */
__attribute__((noinline)) int mark(u64 ref, u64 sector, u64 bytes)
{
	struct slot *slot = slot_of(ref);
	struct cpu *cpu = this_cpu();
	u64 end;

	if (!slot || !cpu || !bytes)
		return 0;
	__sync_fetch_and_add(&cpu->readers, 1);
	if (*(volatile u32 *)&slot->generation != REF_GENERATION(ref))
		goto out; /* the slot has a new owner */
	end = bytes == ~0ull ? slot->sectors : sector + ((bytes + 511) >> 9);
	if (end > slot->sectors || end < sector) {
		end = slot->sectors;
		__sync_fetch_and_add(&slot->lost, 1);
	}
	if (sector < end) {
		u32 shift = slot->shift & 63;

		if (!mark_granules(slot, REF_SLOT(ref), sector >> shift, ((end - 1) >> shift) + 1))
			__sync_fetch_and_add(&slot->lost, 1);
	}
out:
	__sync_fetch_and_add(&cpu->readers, -1);
	return 0;
}

/* A write without a length: a zone operation. Opening, closing and finishing a zone change no data; anything else may
 * have changed everything. */
static __always_inline void mark_unsized(u64 ref, u32 op)
{
	if (op == OP_WRITE)
		return; /* an empty write carries a flush */
	if (bpf_core_enum_value_exists(enum req_op, REQ_OP_ZONE_OPEN)) {
		if (op == bpf_core_enum_value(enum req_op, REQ_OP_ZONE_OPEN) ||
		    op == bpf_core_enum_value(enum req_op, REQ_OP_ZONE_CLOSE) ||
		    op == bpf_core_enum_value(enum req_op, REQ_OP_ZONE_FINISH))
			return;
	} else if (bpf_core_enum_value_exists(enum req_opf, REQ_OP_ZONE_OPEN___opf)) {
		if (op == bpf_core_enum_value(enum req_opf, REQ_OP_ZONE_OPEN___opf) ||
		    op == bpf_core_enum_value(enum req_opf, REQ_OP_ZONE_CLOSE___opf) ||
		    op == bpf_core_enum_value(enum req_opf, REQ_OP_ZONE_FINISH___opf))
			return;
	}
	mark(ref, 0, ~0ull);
}

static __always_inline u64 *find_disk(struct gendisk *disk)
{
	u32 dev = ((u32)disk->major << 20) | (u32)disk->first_minor;

	return bpf_map_lookup_elem(&index_of, &dev);
}

static __always_inline struct gendisk *disk_of_bio(struct bio *bio)
{
	if (bpf_core_field_exists(bio->bi_bdev))
		return bio->bi_bdev->bd_disk;
	return ((struct bio___with_disk *)bio)->bi_disk;
}

static __always_inline struct gendisk *disk_of_request(struct request *rq)
{
	if (bpf_core_field_exists(rq->q->disk))
		return rq->q->disk;
	return ((struct request___with_disk *)rq)->rq_disk;
}

/* ---- bio-based disks ---- */

#define LANDED_IN_REQUEST 0 /* bytes of this bio were completed by a request-based disk */
#define LANDED_AT_END 1	    /* bio_endio() of this bio */

/*
 * A bio, or a part of it, has landed: marks again what it and the bios it was split from carry. Returns whether any of
 * them was remembered.
 *
 * Drivers that clone (dm, md since 5.14) end the original bio when all clones have: block_bio_complete of the original
 * comes last and its address is the key. Drivers that remap the bio itself (NVMe multipath, bcache while detached, md
 * raid0 before 5.14) send the very bio to the disk below, which emits no second block_bio_queue (BIO_TRACE_COMPLETION
 * is set), and if that disk is request-based it ends the bio in block_rq_complete and suppresses block_bio_complete.
 * Such a bio may first have been split: the front is a new bio chained to the rest (bi_end_io is bio_chain_endio and
 * bi_private the rest), and the two land in any order. So each part marks the whole range of its ancestors, and the
 * entry is deleted when as many bytes have landed as were queued.
 *
 * Not so if only parts were sent on: md raid0 chains a new bio for each of its disks to a discard, and ends the discard
 * itself, with block_bio_complete, when these have. Then the entry waits for that event, or it would find nothing and
 * count a gap. The bio's own landing says so before it subtracts, and the subtraction is a full barrier: whoever
 * finds nothing pending also finds it said.
 */
__attribute__((noinline)) int landed(u64 bio, u64 bytes, u32 how)
{
	u64 chained = (u64)&bio_chain_endio;
	u64 at = bio;
	int found = 0;

	for (int depth = 0; depth < MAX_STACK; depth++) {
		struct bio *here = (struct bio *)at;
		struct write *write = bpf_map_lookup_elem(&in_flight, &at);
		void *end_io = 0, *parent = 0;

		if (write) {
			found = 1;
			mark(write->ref, write->sector, write->bytes);
			if (how == LANDED_AT_END) {
				if (!depth)
					bpf_map_delete_elem(&in_flight, &at);
			} else if (!depth || chained) {
				if (!depth)
					*(volatile u64 *)&write->own = 1;
				if (__sync_fetch_and_add(&write->pending, -bytes) <= bytes &&
				    *(volatile u64 *)&write->own)
					bpf_map_delete_elem(&in_flight, &at);
			}
		}
		if (bpf_core_read(&end_io, sizeof(end_io), &here->bi_end_io) ||
		    (chained && (u64)end_io != chained))
			break;
		if (bpf_core_read(&parent, sizeof(parent), &here->bi_private) || !parent)
			break;
		at = (u64)parent;
	}
	return found;
}

/* The bios of a request that land with these bytes. */
static __always_inline void land_request(struct request *rq, u32 bytes)
{
	struct state *st;
	void *at = 0;
	u32 size;

	if (bpf_core_read(&at, sizeof(at), &rq->bio))
		return;
	if (at && !bytes) { /* an empty flush ends here too, and nowhere else */
		landed((u64)at, 0, LANDED_IN_REQUEST);
		return;
	}
	for (int i = 0; i < MAX_BIOS; i++) {
		struct bio *bio = at;

		if (!bio || !bytes)
			return;
		if (bpf_core_read(&size, sizeof(size), &bio->bi_iter.bi_size))
			break;
		if (size > bytes)
			size = bytes;
		landed((u64)bio, size, LANDED_IN_REQUEST);
		bytes -= size;
		if (bpf_core_read(&at, sizeof(at), &bio->bi_next))
			break;
	}
	if (!bytes)
		return;
	st = the_state();
	if (st)
		__sync_fetch_and_add(&st->long_requests, 1);
}

/* A request of several discards has as many ranges as bios; its sector and length describe none of them. */
static __always_inline void mark_discards(u64 ref, struct request *rq)
{
	void *at = 0;
	u64 sector = 0;
	u32 size = 0;

	if (bpf_core_read(&at, sizeof(at), &rq->bio))
		goto everything;
	for (int i = 0; i < MAX_RANGES; i++) {
		struct bio *bio = at;

		if (!bio)
			return;
		if (bpf_core_read(&sector, sizeof(sector), &bio->bi_iter.bi_sector) ||
		    bpf_core_read(&size, sizeof(size), &bio->bi_iter.bi_size) ||
		    bpf_core_read(&at, sizeof(at), &bio->bi_next))
			goto everything;
		mark(ref, sector, size);
	}
	if (!at)
		return;
everything:
	mark(ref, 0, ~0ull);
}

/* ---- the hooks ---- */

static __always_inline void queued(struct bio *bio, u64 address)
{
	u32 op = bio->bi_opf & OP_MASK;
	u64 *ref;

	if (!(op & 1))
		return;
	ref = find_disk(disk_of_bio(bio));
	if (!ref)
		return;
	struct write write = {
		.ref = *ref,
		.sector = bio->bi_iter.bi_sector,
		.bytes = bio->bi_iter.bi_size,
		.pending = bio->bi_iter.bi_size,
	};
	if ((u32)write.ref & REF_STACKED && bpf_map_update_elem(&in_flight, &address, &write, BPF_ANY)) {
		struct state *st = the_state();

		if (st)
			__sync_fetch_and_add(&st->insert_failures, 1);
	}
	if (write.bytes)
		mark(write.ref, write.sector, write.bytes);
	else
		mark_unsized(write.ref, op);
}

static __always_inline void request_completed(struct request *rq, u32 bytes)
{
	u32 op = rq->cmd_flags & OP_MASK;
	struct state *st = the_state();
	u64 *ref;

	if (!(op & 1) || !st)
		return;
	if (st->stacked)
		land_request(rq, bytes);
	ref = find_disk(disk_of_request(rq));
	if (!ref)
		return;
	if (op >= OP_PASSTHROUGH) {
		struct slot *slot = slot_of(*ref);

		if (slot)
			__sync_fetch_and_add(&slot->passthrough, 1);
	} else if (op == OP_DISCARD && rq->bio && rq->bio->bi_next) {
		mark_discards(*ref, rq);
	} else if (bytes) {
		mark(*ref, rq->__sector, bytes);
	} else {
		mark_unsized(*ref, op);
	}
}

static __always_inline void bio_completed(struct bio *bio, u64 address)
{
	struct state *st = the_state();
	u64 *ref;

	if (!(bio->bi_opf & 1) || !st || !st->stacked || landed(address, 0, LANDED_AT_END))
		return;
	ref = find_disk(disk_of_bio(bio));
	if (ref && (u32)*ref & REF_STACKED) {
		struct slot *slot = slot_of(*ref);

		if (slot)
			__sync_fetch_and_add(&slot->unmatched, 1);
	}
}

/*
 * Why there are understudies. From 6.1 a tp_btf program is skipped when its tracepoint fires while it is already
 * running on the CPU: a loop or NVMe/TCP request completes in task context, the interrupt of another disk arrives and
 * completes a request of its own. Each such event would be a gap and cost a compare pass. So a second program is
 * attached to each tracepoint, behind the first. An event that interrupts the first finds the second idle, and the
 * other way round; only a third level of nesting is lost, and counted.
 *
 * The second must not count an event as rescued that the first has handled, or the number of misses (recursion_misses
 * of the first less rescued) would come out too small. The first leaves the event's address in a per-CPU table; a
 * place that an interrupted event occupies is left alone, and then the second does the work again, which is harmless,
 * and does not count. An event whose second was skipped leaves its record behind; the place heals when the same address
 * is completed again. Both halves of an event run on one CPU because tracepoints are called with preemption disabled;
 * user space does not subtract rescued on PREEMPT_RT, where that is changing.
 */
#define HOOK_QUEUE 0
#define HOOK_REQUEST 1
#define HOOK_BIO 2

static __always_inline u64 *record_of(u32 hook, u64 address)
{
	struct cpu *cpu = this_cpu();

	return cpu ? &cpu->done[hook][(address >> 8) & (RECORDS - 1)] : 0;
}

static __always_inline void first_done(u32 hook, u64 address)
{
	u64 *record = record_of(hook, address);

	if (record && !*(volatile u64 *)record)
		*(volatile u64 *)record = address;
}

static __always_inline int understudy(u32 hook, u64 address)
{
	u64 *record = record_of(hook, address);
	struct state *st = the_state();
	u64 found;

	if (!record || !st)
		return 1;
	found = *(volatile u64 *)record;
	if (found == address) {
		*(volatile u64 *)record = 0;
		return 0;
	}
	if (!found)
		__sync_fetch_and_add(&st->rescued[hook], 1);
	return 1;
}

/* The address as a number: a typed pointer may not be passed on or compared as one. */
static __always_inline u64 address_of(void *argument)
{
	u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), argument);
	return address;
}

/*
 * The position of the bio among the arguments has changed and may again (block_bio_queue had the queue before it until
 * 5.10), so there is a pair for each position and user space loads the one that the kernel's BTF calls for.
 */
#define PAIR(hook, tracepoint, name, type, argument, ...)                                        \
	SEC("tp_btf/" tracepoint) int name(u64 *ctx)                                             \
	{                                                                                        \
		type *it = (type *)ctx[argument];                                                \
		u64 address = address_of(&ctx[argument]);                                        \
		__VA_ARGS__;                                                                     \
		first_done(hook, address);                                                       \
		return 0;                                                                        \
	}                                                                                        \
	SEC("tp_btf/" tracepoint) int name##_2(u64 *ctx)                                         \
	{                                                                                        \
		type *it = (type *)ctx[argument];                                                \
		u64 address = address_of(&ctx[argument]);                                        \
		if (understudy(hook, address)) {                                                 \
			__VA_ARGS__;                                                             \
		}                                                                                \
		return 0;                                                                        \
	}

PAIR(HOOK_QUEUE, "block_bio_queue", bio_queue_0, struct bio, 0, queued(it, address))
PAIR(HOOK_QUEUE, "block_bio_queue", bio_queue_1, struct bio, 1, queued(it, address))
PAIR(HOOK_REQUEST, "block_rq_complete", rq_complete_0, struct request, 0, request_completed(it, ctx[2]))
PAIR(HOOK_BIO, "block_bio_complete", bio_complete_0, struct bio, 0, bio_completed(it, address))
PAIR(HOOK_BIO, "block_bio_complete", bio_complete_1, struct bio, 1, bio_completed(it, address))

char LICENSE[] SEC("license") = "GPL";
