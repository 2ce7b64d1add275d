// SPDX-License-Identifier: GPL-2.0-only
/*
 * Marks which granules of the tracked disks were written.
 *
 * A write is marked when it has landed, before whoever wrote is told so: a granule that was drained, cleared and read
 * while the write was still in flight is dirty again. On request-based disks that is block_rq_complete, which carries
 * the range, and without which no bio ends that a driver was given. On bio-based disks (dm, md, zram, NVMe multipath
 * heads) it is block_bio_complete, whose bio has been advanced past its range; the range is therefore remembered under
 * the bio's address from queue to completion (see landed()). Those are marked when they are queued as well, because a
 * bio has many ways through such drivers. Not so on request-based disks: CPUs that queue and CPUs that complete would
 * take each line of the bitmap from each other, which costs more than all the rest (docs/decisions/0186).
 *
 * All programs are tp_btf. Classic tracepoint programs are skipped while any other BPF program runs on the CPU; typed
 * raw tracepoints are guarded per program, and what that guard skips the kernel counts (recursion_misses). A hook can
 * have a second program, the understudy, for the events on which the guard skipped the first (see understudy()).
 *
 * User space attaches what request-based disks need, which is the pair of block_rq_complete, and the rest with the
 * first bio-based disk (load.py): a program costs every write, also one that does nothing.
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
#define RECORDS 4	   /* places in which a first program tells its understudy what it did, by CPU and hook */
#define SEEN 2		   /* disks whose slots are remembered, by CPU and hook */

#define HOOK_QUEUE 0
#define HOOK_REQUEST 1
#define HOOK_BIO 2
#define HOOKS 3

#define OP_MASK 0xff	   /* REQ_OP_MASK, since 4.10 */
#define OP_WRITE 1	   /* REQ_OP_WRITE and REQ_OP_DISCARD have had these numbers since 4.8 */
#define OP_DISCARD 3
#define OP_PASSTHROUGH 32  /* REQ_OP_SCSI_IN/OUT (to 5.15) and REQ_OP_DRV_IN/OUT are the operations from 32 up */

#define FLAG_STACKED 1u /* of a slot: the disk is bio-based */
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
	struct {
		int counter;
	} __bi_remaining;
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
	u64 rescued[HOOKS];  /* events that an understudy handled because its first program was skipped, by hook */
	u64 reserved[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} state SEC(".maps");

/* What the programs of a hook keep on a CPU: one cache line, for what a write costs is the lines it has to fetch. */
struct place {
	u64 readers;	   /* marks in progress */
	u64 seen[SEEN];	   /* disks found last: number << 32 | slot */
	u64 reserved;
	u64 done[RECORDS]; /* the events that the first program handled last */
};

struct cpu {
	struct place places[HOOKS];
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

static __always_inline struct place *place_of(u32 hook)
{
	u32 id = bpf_get_smp_processor_id();
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &id);

	return cpu ? &cpu->places[hook] : 0;
}

static __always_inline struct slot *slot_of(u64 ref)
{
	u32 id = REF_SLOT(ref);

	return bpf_map_lookup_elem(&slots, &id);
}

/*
 * Sets the bits of mask. The atomic is skipped when they are set already, unless they are new, which a mark at queueing
 * takes for granted: where two CPUs mark, looking first at bits that are not set costs more than it saves, for the
 * cache line then comes twice, to be read and to be written (docs/decisions/0179, 0186).
 *
 * Skipping cannot lose a mark: a bit of the active bitmap disappears only after user space has made the other one
 * active, has seen every marker that began before end (see mark_at()), and has handed the bits on. A marker that found
 * the bit set began before, so its mark is among them. The same holds for the summary, whose bit another CPU may be
 * about to set: that CPU is waited for as well.
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

static __always_inline int mark_word(void *map, struct slot *slot, u32 word, u64 mask, int new)
{
	u64 *at = bpf_map_lookup_elem(map, &word);

	if (!at)
		return 0;
	if (!new && (*(volatile u64 *)at & mask) == mask)
		return 1;
	__sync_fetch_and_or(at, mask);
	return set_bits(map, slot->summary + (word >> 15), 1ull << ((word >> 9) & 63));
}

/* Marks granules [first, end) in the active bitmap; 0 if a word was outside of it. */
static __always_inline int mark_granules(struct slot *slot, u32 id, u64 first, u64 end, int new)
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
			return fits & mark_word(map, slot, base + head, from & to, new);
		if (first & 63) {
			fits &= mark_word(map, slot, base + head, from, new);
			head++;
		}
		if (end & 63)
			fits &= mark_word(map, slot, base + tail, to, new);
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
 * Counts a marker in or out, as a full barrier. BPF's atomics order like the kernel's: only those that return the old
 * value do, and clang drops the value, and with it the barrier, where nobody looks at it. x86 would not notice: its
 * locked instructions are all full barriers. arm64 would.
 */
static __always_inline void count_marker(struct place *place, u64 by)
{
	u64 before = __sync_fetch_and_add(&place->readers, by);

	asm volatile("" : : "r"(before));
}

/*
 * Marks the granules that bytes from sector touch; bytes = ~0 means to the end of the disk. new: see set_bits().
 *
 * The readers count is what a drain waits for after it has made the other bitmap active: it needs each place's count to
 * be zero once. Both the increment here and the barrier between flip and look there are full, so either this program
 * sees the flip or the drain sees this program (Dekker). The decrement is full too: whoever sees zero sees the bits.
 * That takes atomics that fetch (see count_marker()).
 */
static __always_inline int mark_at(struct place *place, u64 ref, u64 sector, u64 bytes, int new)
{
	struct slot *slot = slot_of(ref);
	u64 end;

	if (!slot || !place || !bytes)
		return 0;
	count_marker(place, 1);
	if (*(volatile u32 *)&slot->generation != REF_GENERATION(ref))
		goto out; /* the slot has a new owner */
	end = bytes == ~0ull ? slot->sectors : sector + ((bytes + 511) >> 9);
	if (end > slot->sectors || end < sector) {
		end = slot->sectors;
		__sync_fetch_and_add(&slot->lost, 1);
	}
	if (sector < end) {
		u32 shift = slot->shift & 63;

		if (!mark_granules(slot, REF_SLOT(ref), sector >> shift, ((end - 1) >> shift) + 1, new))
			__sync_fetch_and_add(&slot->lost, 1);
	}
out:
	count_marker(place, -1);
	return 0;
}

/* The same, off the fast path. A global function: the verifier checks it once, not once per caller and iteration. */
__attribute__((noinline)) int mark(u64 ref, u64 sector, u64 bytes)
{
	return mark_at(place_of(HOOK_REQUEST), ref, sector, bytes, 0);
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

/*
 * Returns a tracked disk's ref, 0 for one that is not tracked (a ref has a generation, which is not 0).
 *
 * The hash table knows all disks, but a look into it cost a fourth of what a write did (docs/decisions/0179). So each
 * CPU remembers in which slot it found a disk. Only the slot itself is believed, and mark_at() looks at its generation
 * again, counted: a slot that gets a new owner meanwhile is not marked, which may be, for the event began before the
 * disk of either was tracked.
 */
static __always_inline u64 find_disk(struct place *place, struct gendisk *disk)
{
	u32 dev = ((u32)disk->major << 20) | (u32)disk->first_minor;
	volatile u64 *seen = &place->seen[(dev ^ dev >> 4) & (SEEN - 1)];
	u64 found = *seen, *ref;

	if (found >> 32 == dev) {
		struct slot *slot = slot_of(found);
		u32 generation;

		if (slot && *(volatile u32 *)&slot->dev == dev && (generation = *(volatile u32 *)&slot->generation))
			return (u64)generation << 32 | (slot->flags & FLAG_STACKED ? REF_STACKED : 0) | (u32)found;
	}
	ref = bpf_map_lookup_elem(&index_of, &dev);
	if (!ref)
		return 0;
	*seen = (u64)dev << 32 | REF_SLOT(*ref);
	return *ref;
}

static __always_inline struct gendisk *disk_of_bio(struct bio *bio)
{
	if (bpf_core_field_exists(bio->bi_bdev))
		return bio->bi_bdev->bd_disk;
	return ((struct bio___with_disk *)bio)->bi_disk;
}

static __always_inline struct gendisk *disk_of_event(struct request_queue *queue, struct bio *bio)
{
	if (bpf_core_field_exists(queue->disk))
		return queue->disk;
	return disk_of_bio(bio);
}

static __always_inline struct gendisk *disk_of_request(struct request *rq)
{
	if (bpf_core_field_exists(rq->q->disk))
		return rq->q->disk;
	return ((struct request___with_disk *)rq)->rq_disk;
}

/* ---- bio-based disks ---- */

static __always_inline int remains(struct bio *bio)
{
	int left = 0;

	return !bpf_core_read(&left, sizeof(left), &bio->__bi_remaining.counter) && left > 1;
}

static __always_inline int is_current(u64 ref)
{
	struct slot *slot = slot_of(ref);

	return slot && *(volatile u32 *)&slot->generation == REF_GENERATION(ref);
}

#define LANDED_IN_REQUEST 0 /* bytes of this bio were completed by a request-based disk */
#define LANDED_AT_END 1	    /* bio_endio() of this bio */
#define LANDED_MAYBE 2	    /* one of these, which may have been seen already: it is only marked */

/*
 * A bio, or a part of it, has landed: marks again what it and the bios it was split from carry. Returns whether any of
 * them was remembered.
 *
 * Drivers that clone (dm, md since 5.14) end the original bio when all clones have: block_bio_complete of the original
 * comes last and its address is the key. Drivers that remap the bio itself (NVMe multipath, bcache while detached, md
 * raid0 before 5.14) send the very bio to the disk below, which emits no second block_bio_queue (BIO_TRACE_COMPLETION
 * is set), and if that disk is request-based it ends the bio in block_rq_complete and suppresses block_bio_complete.
 * (NVMe emits that itself for the head, before the request's end: nvme_trace_bio_complete(). Its bio may have parts
 * that have not landed, so it has ended only if nothing remains; bio_endio() counts down before it emits the event.)
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
			/* Of a slot's former owner, which a kill may leave: this disk's own was not remembered. */
			found |= is_current(write->ref);
			mark(write->ref, write->sector, write->bytes);
			if (how == LANDED_AT_END) {
				if (!depth && !remains(here))
					bpf_map_delete_elem(&in_flight, &at);
			} else if (how == LANDED_IN_REQUEST && (!depth || chained)) {
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
static __always_inline void land_request(struct request *rq, u32 bytes, u32 how)
{
	struct state *st;
	void *at = 0;
	u32 size;

	if (bpf_core_read(&at, sizeof(at), &rq->bio))
		return;
	if (at && !bytes) { /* an empty flush ends here too, and nowhere else */
		landed((u64)at, 0, how);
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
		landed((u64)bio, size, how);
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

/* An argument of a tracepoint as a number, to find what is remembered under it: a typed pointer may not be used as one.
 * Reading it costs more than a mark does, so only bio-based disks pay for it. */
static __always_inline u64 number_of(void *argument)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), argument);
	return number;
}

static __always_inline void remember(u64 ref, u64 sector, u32 bytes, u64 address)
{
	struct write write = { .ref = ref, .sector = sector, .bytes = bytes, .pending = bytes };
	struct state *st = the_state();

	if (bpf_map_update_elem(&in_flight, &address, &write, BPF_ANY) && st)
		__sync_fetch_and_add(&st->insert_failures, 1);
}

#define SURE 1	/* of an event: no other program has seen it */
#define MAYBE 2 /* one may have: nothing is counted and nothing forgotten */

static __always_inline void queued(struct place *place, struct bio *bio, void *argument)
{
	u32 op = bio->bi_opf & OP_MASK, bytes = bio->bi_iter.bi_size;
	u64 ref, sector = bio->bi_iter.bi_sector;

	if (!(op & 1))
		return;
	ref = find_disk(place, disk_of_bio(bio));
	if (!((u32)ref & REF_STACKED))
		return; /* not tracked, or marked when it has landed */
	remember(ref, sector, bytes, number_of(argument));
	if (bytes)
		mark_at(place, ref, sector, bytes, 1);
	else
		mark_unsized(ref, op);
}

static __always_inline void request_completed(struct place *place, struct request *rq, u32 bytes, u32 sure)
{
	u32 op = rq->cmd_flags & OP_MASK;
	struct state *st = the_state();
	u64 ref;

	if (!(op & 1) || !st)
		return;
	if (st->stacked)
		land_request(rq, bytes, sure == SURE ? LANDED_IN_REQUEST : LANDED_MAYBE);
	ref = find_disk(place, disk_of_request(rq));
	if (!ref)
		return;
	if (op >= OP_PASSTHROUGH) {
		struct slot *slot = slot_of(ref);

		if (slot && sure == SURE)
			__sync_fetch_and_add(&slot->passthrough, 1);
	} else if (op == OP_DISCARD && rq->bio && rq->bio->bi_next) {
		mark_discards(ref, rq);
	} else if (bytes) {
		mark_at(place, ref, rq->__sector, bytes, 0);
	} else if (rq->bio) {
		/* Without one all of it has landed before: request-based dm completes such a request once more. */
		mark_unsized(ref, op);
	}
}

/* disk: of the event, which for NVMe is the head's, while the bio has been sent on to a path. */
static __always_inline void bio_completed(struct place *place, struct bio *bio, void *argument, struct gendisk *disk,
					  u32 sure)
{
	struct state *st = the_state();
	u64 ref;

	if (!(bio->bi_opf & 1) || !st || !st->stacked)
		return;
	if (landed(number_of(argument), 0, sure == SURE ? LANDED_AT_END : LANDED_MAYBE) || sure != SURE)
		return;
	ref = find_disk(place, disk);
	if ((u32)ref & REF_STACKED) {
		struct slot *slot = slot_of(ref);

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
 * of the first less rescued) would come out too small. The first leaves the event's address in a per-CPU table. A place
 * that an interrupted event occupies is left alone, and then the second marks again, which is harmless, and counts and
 * forgets nothing. An event whose second was skipped, or not attached yet, leaves its record behind; the place heals
 * when the same address is completed again. Both halves of an event run on one CPU because tracepoints are called with
 * preemption disabled; user space does not subtract rescued on PREEMPT_RT, where that is changing.
 */
/*
 * The event's record and what is put there: its address less that of the place. A difference, because of all arithmetic
 * with a typed pointer the verifier allows just this; the assembler keeps clang from rearranging it.
 */
static __always_inline volatile u64 *record_of(struct place *place, void *event, u64 *number)
{
	u64 distance = (u64)event;

	asm volatile("%0 -= %1" : "+r"(distance) : "r"(place));
	*number = distance;
	return &place->done[(distance >> 8) & (RECORDS - 1)];
}

static __always_inline void first_done(struct place *place, void *event)
{
	u64 number;
	volatile u64 *record = record_of(place, event, &number);

	if (!*record)
		*record = number;
}

/* Returns SURE, MAYBE, or 0 for what the first has handled. */
static __always_inline u32 understudy(struct place *place, u32 hook, void *event)
{
	u64 number;
	volatile u64 *record = record_of(place, event, &number);
	u64 found = *record;
	struct state *st;

	if (found == number) {
		*record = 0;
		return 0;
	}
	st = the_state();
	if (found)
		return MAYBE;
	if (st)
		__sync_fetch_and_add(&st->rescued[hook], 1);
	return SURE;
}

/*
 * The position of the bio among the arguments has changed and may again (block_bio_queue had the queue before it until
 * 5.10), so there is a pair for each position and user space loads the one that the kernel's BTF calls for.
 */
#define PAIR(hook, tracepoint, name, type, argument, ...)                                        \
	SEC("tp_btf/" tracepoint) int name(u64 *ctx)                                             \
	{                                                                                        \
		struct place *place = place_of(hook);                                            \
		type *it = (type *)ctx[argument];                                                \
		u32 sure __attribute__((unused)) = SURE;                                         \
		if (!place)                                                                      \
			return 0;                                                                \
		__VA_ARGS__;                                                                     \
		first_done(place, it);                                                           \
		return 0;                                                                        \
	}                                                                                        \
	SEC("tp_btf/" tracepoint) int name##_2(u64 *ctx)                                         \
	{                                                                                        \
		struct place *place = place_of(hook);                                            \
		type *it = (type *)ctx[argument];                                                \
		u32 sure = place ? understudy(place, hook, it) : 0;                              \
		if (place && sure) {                                                             \
			__VA_ARGS__;                                                             \
		}                                                                                \
		return 0;                                                                        \
	}

PAIR(HOOK_QUEUE, "block_bio_queue", bio_queue_0, struct bio, 0, queued(place, it, &ctx[0]))
PAIR(HOOK_QUEUE, "block_bio_queue", bio_queue_1, struct bio, 1, queued(place, it, &ctx[1]))
PAIR(HOOK_REQUEST, "block_rq_complete", rq_complete_0, struct request, 0, request_completed(place, it, ctx[2], sure))
PAIR(HOOK_BIO, "block_bio_complete", bio_complete_0, struct bio, 0,
     bio_completed(place, it, &ctx[0], disk_of_bio(it), sure))
PAIR(HOOK_BIO, "block_bio_complete", bio_complete_1, struct bio, 1,
     bio_completed(place, it, &ctx[1], disk_of_event((struct request_queue *)ctx[0], it), sure))

char LICENSE[] SEC("license") = "GPL";
