//! A hierarchical timer wheel: insert and cancel in constant time, on an injected clock.
//!
//! All times are nanoseconds since the driver's epoch. Time is cut into ticks of
//! [`TimerWheel::TICK_NS`]; eight levels of 64 slots, each level 64 times coarser than the one
//! below, span every tick a `u64` of nanoseconds can name, so no deadline is too far away.
//!
//! Where a timer lives follows from its tick and from `reached`, the tick up to which the wheel
//! has been turned. Three invariants carry everything below:
//!
//! 1. A timer in the wheel has `tick > reached`. Its level is the highest base-64 digit in which
//!    `tick` and `reached` differ, its slot is that digit of `tick`. So within a level, the
//!    occupied slots all lie ahead, and the lowest bit of the lowest occupied level is the next
//!    slot: no rotation, no wrap-around.
//! 2. All timers of one tick are at any moment in one slot, in the order of insertion: a slot is
//!    spilled into the levels below at the moment `reached` enters it, when those are empty.
//! 3. A due timer is in the list `DUE` (the open batch) or `LATE` (the next batch), ordered by
//!    tick, then by insertion. A deadline already past counts as of the tick reached.
//!
//! Turning the wheel touches occupied slots only, so a jump over a long idle time costs at most
//! one visit per level and slot, and each timer moves at most once per level in its life.
//!
//! Memory: 24 bytes plus `size_of::<Option<T>>()` (aligned) for each timer of the greatest number
//! ever pending at once, and 8 KiB for the slots. Nothing is allocated below that number.

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 8 × 6 bits: one more than the 47 bits of the last tick, see [`LAST_TICK`].
const LEVELS: usize = 8;
/// The timers of the open batch.
const DUE: usize = LEVELS * SLOTS;
/// Timers that were due when inserted: the next batch begins with them.
const LATE: usize = DUE + 1;
const LISTS: usize = LATE + 1;

const TICK_BITS: u32 = 17;
/// The tick of a deadline in the last, incomplete tick of the range; reached at `u64::MAX` only.
const LAST_TICK: u64 = 1 << (u64::BITS - TICK_BITS);
const NIL: u32 = u32::MAX;

/// Names a pending timer of one [`TimerWheel`].
///
/// A key whose timer has fired or was cancelled is stale: it finds nothing, also when its slot is
/// in use again (until that one slot has been reused 2³² times).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    slot: u32,
    generation: u32,
}

/// Timers by deadline; see the [module documentation](self) for how it works.
///
/// ```
/// use proscenium_engine::timer::TimerWheel;
///
/// let mut wheel = TimerWheel::new(0);
/// let late = wheel.insert(2_000_000, "late");
/// wheel.insert(1_000_000, "early");
/// assert_eq!(wheel.pop_due(999_999), None);
/// assert_eq!(wheel.cancel(late), Some("late"));
/// let wake_at = wheel.next_deadline().unwrap();
/// assert_eq!(wheel.pop_due(wake_at), Some("early"));
/// assert_eq!(wheel.pop_due(wake_at), None);
/// ```
pub struct TimerWheel<T> {
    nodes: Vec<Node<T>>,
    /// Head of the list of free nodes, linked by `next`.
    free: u32,
    len: usize,
    /// `LEVELS × SLOTS` slots, then `DUE` and `LATE`.
    lists: Box<[List]>,
    /// One bit per slot that is not empty.
    occupied: [u64; LEVELS],
    /// The latest time seen.
    now_ns: u64,
    /// The tick up to which the wheel is turned: everything at or before it is due.
    reached: u64,
    batch_open: bool,
}

struct Node<T> {
    tick: u64,
    prev: u32,
    next: u32,
    generation: u32,
    /// The list the node is linked in; meaningless while the node is free.
    list: u16,
    /// `None` exactly while the node is free.
    value: Option<T>,
}

#[derive(Clone)]
struct List {
    head: u32,
    tail: u32,
    /// No timer of the list has an earlier tick. Exact until the earliest one is cancelled.
    first_tick: u64,
}

impl<T> TimerWheel<T> {
    /// The resolution, 131 µs: a timer fires at most this much after its deadline, by the `now`
    /// it is asked with.
    pub const TICK_NS: u64 = 1 << TICK_BITS;

    /// An empty wheel whose clock stands at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        const { assert!(LISTS <= u16::MAX as usize) };
        const { assert!(LAST_TICK >> (SLOT_BITS * LEVELS as u32) == 0) };
        let empty = List {
            head: NIL,
            tail: NIL,
            first_tick: u64::MAX,
        };
        TimerWheel {
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            lists: vec![empty; LISTS].into_boxed_slice(),
            occupied: [0; LEVELS],
            now_ns,
            reached: tick_reached(now_ns),
            batch_open: false,
        }
    }

    /// Adds a timer that fires once `deadline_ns` has come. One whose deadline is not after the
    /// latest time the wheel has seen fires in the next batch, see [`pop_due`](Self::pop_due).
    ///
    /// # Panics
    /// If 2³² − 1 timers are pending.
    pub fn insert(&mut self, deadline_ns: u64, value: T) -> TimerKey {
        let late = deadline_ns <= self.now_ns;
        let tick = if late {
            self.reached
        } else {
            tick_of_deadline(deadline_ns)
        };
        let slot = self.take_free_node();
        let node = &mut self.nodes[slot as usize];
        node.tick = tick;
        node.value = Some(value);
        let key = TimerKey {
            slot,
            generation: node.generation,
        };
        self.len += 1;
        let list = if late { LATE } else { self.list_for(tick) };
        self.append(list, slot);
        key
    }

    /// Removes a timer that has not fired yet and gives its value back; also one that is due and
    /// waits in the open batch. `None` for a stale key.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.slot as usize)?;
        if node.generation != key.generation || node.value.is_none() {
            return None;
        }
        self.remove(key.slot)
    }

    /// The next due timer; to be called in a loop until it answers `None`.
    ///
    /// A timer never fires before its deadline and at most one tick after it. Timers come in the
    /// order of their deadline's tick, first inserted first within one tick.
    ///
    /// The calls up to the `None` are one *batch*: what was due when it began. A timer that is
    /// inserted during the batch and is due at once belongs to the next one, so a loop at one
    /// `now_ns` ends however much its body inserts. A batch also ends when `now_ns` enters a later
    /// tick: read the clock once per loop, not once per call. A loop may stop early; what is left
    /// of its batch comes first next time. A clock that goes backwards counts as standing still.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        self.now_ns = self.now_ns.max(now_ns);
        let target = tick_reached(self.now_ns);
        if !self.batch_open || target > self.reached {
            self.batch_open = true;
            self.spill(LATE);
            self.turn_to(target);
        }
        match self.lists[DUE].head {
            NIL => {
                self.batch_open = false;
                None
            }
            slot => self.remove(slot),
        }
    }

    /// The earliest time at which [`pop_due`](Self::pop_due) can yield a timer, rounded up to its
    /// tick; in the past if one is due already; `None` without timers.
    ///
    /// Never later than the first timer. Exact to the tick, except when the earliest timer of a
    /// coarse slot was cancelled and others remain there: then it may be early, that is, `pop_due`
    /// finds nothing at that time, and the next answer is later. This happens at most once per
    /// level on the way to a timer, and keeps both this call and `cancel` constant-time.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.lists[DUE].head != NIL || self.lists[LATE].head != NIL {
            return Some(time_of_tick(self.reached));
        }
        let (level, slot) = self.next_slot()?;
        Some(time_of_tick(self.lists[level * SLOTS + slot].first_tick))
    }

    /// How many timers are pending, due ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is pending.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Turns the wheel, moving every timer whose tick is passed to `DUE`, in order of ticks.
    fn turn_to(&mut self, target: u64) {
        if target <= self.reached {
            return;
        }
        while let Some((level, slot)) = self.next_slot() {
            let shift = SLOT_BITS * level as u32;
            let above = !0 << (shift + SLOT_BITS);
            let start = (self.reached & above) | (slot as u64) << shift;
            if start > target {
                break;
            }
            self.reached = start;
            self.spill(level * SLOTS + slot);
        }
        // No occupied slot begins at or before `target`, so the levels of all timers still hold.
        self.reached = target;
    }

    /// The occupied slot that begins first.
    fn next_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// Empties a list: what has been reached becomes due, the rest moves to lower levels.
    fn spill(&mut self, list: usize) {
        while self.lists[list].head != NIL {
            let slot = self.lists[list].head;
            self.unlink(slot);
            let to = self.list_for(self.nodes[slot as usize].tick);
            debug_assert!(to < list || to == DUE, "a spilled timer moves down");
            self.append(to, slot);
        }
    }

    /// Where a timer of this tick belongs, now.
    fn list_for(&self, tick: u64) -> usize {
        if tick <= self.reached {
            return DUE;
        }
        let highest_bit = u64::BITS - 1 - (tick ^ self.reached).leading_zeros();
        let level = highest_bit / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    fn append(&mut self, list: usize, slot: u32) {
        let tail = self.lists[list].tail;
        let node = &mut self.nodes[slot as usize];
        let tick = node.tick;
        node.list = list as u16;
        node.prev = tail;
        node.next = NIL;
        if tail == NIL {
            self.lists[list] = List {
                head: slot,
                tail: slot,
                first_tick: tick,
            };
            if list < DUE {
                self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
            }
        } else {
            self.nodes[tail as usize].next = slot;
            let list = &mut self.lists[list];
            list.tail = slot;
            list.first_tick = list.first_tick.min(tick);
        }
    }

    fn unlink(&mut self, slot: u32) {
        let node = &self.nodes[slot as usize];
        let (prev, next, list) = (node.prev, node.next, usize::from(node.list));
        match prev {
            NIL => self.lists[list].head = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NIL => self.lists[list].tail = prev,
            next => self.nodes[next as usize].prev = prev,
        }
        if prev == NIL && next == NIL && list < DUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    /// Unlinks and frees a node in use.
    fn remove(&mut self, slot: u32) -> Option<T> {
        self.unlink(slot);
        self.len -= 1;
        let node = &mut self.nodes[slot as usize];
        node.generation = node.generation.wrapping_add(1);
        node.next = self.free;
        self.free = slot;
        node.value.take()
    }

    fn take_free_node(&mut self) -> u32 {
        if self.free != NIL {
            let slot = self.free;
            self.free = self.nodes[slot as usize].next;
            return slot;
        }
        assert!(
            self.nodes.len() < NIL as usize,
            "2³² − 1 timers are pending"
        );
        let slot = self.nodes.len() as u32;
        self.nodes.push(Node {
            tick: 0,
            prev: NIL,
            next: NIL,
            generation: 0,
            list: 0,
            value: None,
        });
        slot
    }
}

impl<T> std::fmt::Debug for TimerWheel<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimerWheel")
            .field("len", &self.len)
            .field("now_ns", &self.now_ns)
            .field("next_deadline", &self.next_deadline())
            .finish()
    }
}

/// The last tick that has begun at `now_ns`. The end of time counts as a tick of its own, so that
/// a deadline of `u64::MAX` fires there, and not before.
fn tick_reached(now_ns: u64) -> u64 {
    if now_ns == u64::MAX {
        LAST_TICK
    } else {
        now_ns >> TICK_BITS
    }
}

/// The first tick that does not begin before `deadline_ns`.
fn tick_of_deadline(deadline_ns: u64) -> u64 {
    let begun = deadline_ns >> TICK_BITS;
    begun + u64::from(begun << TICK_BITS != deadline_ns)
}

/// The first time at which `tick` counts as reached.
fn time_of_tick(tick: u64) -> u64 {
    if tick >= LAST_TICK {
        u64::MAX
    } else {
        tick << TICK_BITS
    }
}
