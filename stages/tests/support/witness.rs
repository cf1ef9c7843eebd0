//! A stage that would notice if two of its handlers overlapped, if messages of one sender overtook
//! or got lost, or if anything came after its end, and that does all that a handler can do.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_stages::{Cx, OffloadError, Reply, Stage, StageRef, Tick, TimerId};

use crate::dice::Dice;

pub type Ref = StageRef<Witness>;

/// What all witnesses of a test write down.
#[derive(Default)]
pub struct Journal {
    log: Mutex<Log>,
    bells: Mutex<Bells>,
}

#[derive(Default)]
struct Log {
    failures: Vec<String>,
    records: HashMap<Ref, Record>,
    /// Numbers of the last messages, by sender and receiver.
    numbers: HashMap<(u64, Ref), u64>,
    senders: HashMap<Ref, u64>,
    /// Every witness that there is, for handlers to talk to.
    refs: Vec<Ref>,
    tickets: u64,
    begun: u64,
    /// Receivers of messages that were dropped, though nobody had told them to end.
    lost: Vec<Ref>,
    /// States that exist.
    states: u64,
    lives: u64,
    /// The rarest things that happened, so that a test can see that they did.
    panics: u64,
    destroys: u64,
    ended: u64,
}

#[derive(Default)]
struct Record {
    /// What runs.
    inside: Option<&'static str>,
    /// Number of the last message of each sender.
    last: HashMap<u64, u64>,
    /// It was told to end. It may live for as long as its handler still waits, and takes nothing
    /// more: what it is told then is dropped.
    leaving: bool,
    /// `on_destroy` has run.
    over: bool,
}

#[derive(Default)]
struct Bells {
    waiting: Vec<(Arc<AtomicBool>, Waker)>,
    /// Wakers whose time is over.
    old: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    pub fn fail(&self, failure: String) {
        lock(&self.log).failures.push(failure);
    }

    pub fn meet(&self, stage: Ref) {
        let mut log = lock(&self.log);
        if !log.refs.contains(&stage) {
            log.refs.push(stage);
        }
    }

    pub fn anybody(&self, dice: &mut Dice) -> Option<Ref> {
        let log = lock(&self.log);
        // The youngest more often: old ones have ended.
        let count = log.refs.len();
        let from = if dice.one_in(8) {
            0
        } else {
            count.saturating_sub(8)
        };
        (count > 0).then(|| *dice.pick(&log.refs[from..]))
    }

    /// The number of a stage as a sender; threads take those below 1,000.
    fn sender(&self, stage: Ref) -> u64 {
        let mut log = lock(&self.log);
        let next = 1000 + log.senders.len() as u64;
        *log.senders.entry(stage).or_insert(next)
    }

    pub fn message(self: &Arc<Self>, from: u64, to: Ref, plan: u64, fuel: u8) -> Message {
        let mut log = lock(&self.log);
        log.tickets += 1;
        let number = log.numbers.entry((from, to)).or_default();
        *number += 1;
        Message {
            ticket: Ticket {
                journal: Arc::clone(self),
                to,
                from,
                number: *number,
                excused: false,
            },
            plan,
            fuel,
            reply: None,
        }
    }

    /// Tells as `from`; `by_cx` chooses the way.
    fn tell(
        self: &Arc<Self>,
        from: u64,
        to: Ref,
        plan: u64,
        fuel: u8,
        tell: impl FnOnce(Message) -> Result<(), proscenium_stages::TellError<Message>>,
    ) -> bool {
        let told = tell(self.message(from, to, plan, fuel));
        told.map_err(|error| error.into_message().ticket.excuse())
            .is_ok()
    }

    /// Tells from outside.
    pub fn tell_from(self: &Arc<Self>, from: u64, to: Ref, plan: u64, fuel: u8) -> bool {
        self.tell(from, to, plan, fuel, |message| to.tell(message))
    }

    fn enter(self: &Arc<Self>, me: Ref, what: &'static str) -> Inside {
        let mut log = lock(&self.log);
        let record = log.records.entry(me).or_default();
        let (before, over) = (record.inside.replace(what), record.over);
        if let Some(before) = before {
            log.failures
                .push(format!("{me:?}: {what} began during {before}"));
        }
        if over {
            log.failures
                .push(format!("{me:?}: {what} after its on_destroy"));
        }
        Inside {
            journal: Arc::clone(self),
            me,
        }
    }

    /// Wakes some that wait, and some that do not any more.
    pub fn ring(&self, dice: &mut Dice) {
        let mut wakers = Vec::new();
        {
            let mut bells = lock(&self.bells);
            for _ in 0..=dice.below(3) {
                if !bells.waiting.is_empty() {
                    let chosen = dice.below(bells.waiting.len() as u64) as usize;
                    let (rung, waker) = bells.waiting.swap_remove(chosen);
                    rung.store(true, Ordering::SeqCst);
                    bells.old.push(waker.clone());
                    wakers.push(waker);
                }
            }
            for _ in 0..dice.below(3) {
                if !bells.old.is_empty() {
                    let waker = dice.pick(&bells.old).clone();
                    wakers.push(waker.clone()); // twice
                    wakers.push(waker);
                }
            }
            if bells.old.len() > 64 {
                bells.old.drain(..32);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn ring_all(&self) {
        let waiting = std::mem::take(&mut lock(&self.bells).waiting);
        for (rung, waker) in waiting {
            rung.store(true, Ordering::SeqCst);
            waker.wake();
        }
    }

    /// Messages that were neither handled nor dropped yet.
    pub fn tickets(&self) -> u64 {
        lock(&self.log).tickets
    }

    pub fn begun(&self) -> u64 {
        lock(&self.log).begun
    }

    /// Panics, destroys and ends so far.
    pub fn rare(&self) -> [u64; 3] {
        let log = lock(&self.log);
        [log.panics, log.destroys, log.ended]
    }

    /// States that were not dropped yet.
    pub fn states(&self) -> u64 {
        lock(&self.log).states
    }

    /// Somebody tells `stage` to end.
    fn leave(&self, stage: Ref) {
        let mut log = lock(&self.log);
        log.destroys += 1;
        log.records.entry(stage).or_default().leaving = true;
    }

    /// Those that lost messages so far, without having been told to end: none may live later.
    pub fn lost(&self) -> Vec<Ref> {
        lock(&self.log).lost.clone()
    }

    /// Fails if anything was wrong so far.
    #[track_caller]
    pub fn check(&self) {
        let log = lock(&self.log);
        assert!(log.failures.is_empty(), "{}", log.failures.join("\n"));
    }

    /// The same, and none of `lost` may be of `alive`, which were looked for after that.
    #[track_caller]
    pub fn check_lost(&self, lost: &[Ref], alive: &[Ref]) {
        self.check();
        for stage in alive {
            assert!(!lost.contains(stage), "{stage:?} lost messages");
        }
    }
}

/// Something of a stage runs, until this is dropped.
struct Inside {
    journal: Arc<Journal>,
    me: Ref,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut log = lock(&self.journal.log);
        if let Some(record) = log.records.get_mut(&self.me) {
            record.inside = None;
        }
    }
}

/// Goes with every message, so that it is known what became of it.
pub struct Ticket {
    journal: Arc<Journal>,
    to: Ref,
    from: u64,
    number: u64,
    /// It was handled, or who sent it knows that it was not.
    excused: bool,
}

impl Ticket {
    fn excuse(mut self) {
        self.excused = true;
    }

    fn begin(mut self, me: Ref) {
        self.excused = true;
        let (to, from, number) = (self.to, self.from, self.number);
        let mut log = lock(&self.journal.log);
        log.begun += 1;
        if to != me {
            log.failures
                .push(format!("{me:?} got a message for {to:?}"));
        }
        let record = log.records.entry(me).or_default();
        let last = record.last.insert(from, number).unwrap_or(0);
        if last >= number {
            log.failures.push(format!(
                "{me:?}: message {number} of {from} came after {last}"
            ));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut log = lock(&self.journal.log);
        log.tickets -= 1;
        let leaving = |record: &Record| record.leaving;
        if !self.excused && !log.records.get(&self.to).is_some_and(leaving) {
            log.lost.push(self.to);
        }
    }
}

/// What witnesses tell each other.
pub struct Message {
    pub ticket: Ticket,
    /// What to do, as a seed.
    pub plan: u64,
    /// How many messages this one may lead to, one after the other.
    pub fuel: u8,
    pub reply: Option<Reply<u64>>,
}

/// Which of the rarer things handlers do.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub panics: bool,
    pub ends: bool,
    /// Sleeps and timers take at most that long.
    pub longest: Duration,
}

/// See the module's page.
pub struct Witness {
    journal: Arc<Journal>,
    habits: Habits,
    /// Written before an await, and read after it.
    scratch: u64,
    created: bool,
    timers: Vec<TimerId>,
    /// Requests to be answered later, or never.
    owed: Vec<Reply<u64>>,
    /// Drawn by the factory.
    pub life: u64,
}

impl Witness {
    pub fn new(journal: &Arc<Journal>, habits: Habits) -> Self {
        let mut log = lock(&journal.log);
        log.states += 1;
        log.lives += 1;
        Self {
            journal: Arc::clone(journal),
            habits,
            scratch: 0,
            created: false,
            timers: Vec::new(),
            owed: Vec::new(),
            life: log.lives,
        }
    }

    fn begin(&mut self, cx: &Cx<'_, Self>, what: &'static str) -> Inside {
        if !std::mem::replace(&mut self.created, true) && what != "create" {
            let me = cx.me();
            self.journal
                .fail(format!("{me:?}: {what} before on_create"));
        }
        self.journal.enter(cx.me(), what)
    }

    async fn act(&mut self, cx: &mut Cx<'_, Self>, plan: u64, fuel: u8) {
        let mut dice = Dice::new(plan);
        for step in 0..dice.below(4) {
            let mark = plan.wrapping_add(step);
            self.scratch = mark;
            self.step(cx, &mut dice, fuel).await;
            if self.scratch != mark {
                let me = cx.me();
                self.journal
                    .fail(format!("{me:?}: somebody was there during an await"));
            }
        }
    }

    fn time(&self, dice: &mut Dice) -> Duration {
        let most = self.habits.longest.as_nanos() as u64;
        let most = (most >> dice.below(12)).max(1);
        Duration::from_nanos(dice.below(most))
    }

    async fn step(&mut self, cx: &mut Cx<'_, Self>, dice: &mut Dice, fuel: u8) {
        let journal = Arc::clone(&self.journal);
        match dice.below(14) {
            0 => YieldNow(false).await,
            1 | 2 => cx.sleep(self.time(dice)).await,
            3 => {
                let number = dice.next();
                let work = move || number.wrapping_mul(3);
                let result = if dice.one_in(2) {
                    cx.offload_compute(work).await
                } else {
                    cx.offload_io(work).await
                };
                if result != Ok(number.wrapping_mul(3)) {
                    journal.fail(format!("an offload answered {result:?}"));
                }
            }
            4 => {
                let work = || -> u64 { resume_unwind(Box::new("work")) };
                let result = cx.offload_compute(work).await;
                if result != Err(OffloadError::Panicked("work".to_owned())) {
                    journal.fail(format!("an offload that panics answered {result:?}"));
                }
            }
            5 | 6 if fuel > 0 => self.request(cx, dice, fuel - 1).await,
            7 | 8 if fuel > 0 => self.tell_some(cx, dice, fuel - 1),
            9 => Bell::new(&journal).await,
            10 => {
                let id = if dice.one_in(3) {
                    cx.set_interval(self.time(dice) + Duration::from_nanos(1), Some(2))
                } else {
                    cx.set_timer(self.time(dice))
                };
                if self.timers.contains(&id) {
                    journal.fail(format!("{id:?} was given out twice"));
                }
                self.timers.push(id);
                if dice.one_in(4) {
                    cx.cancel_timer(*dice.pick(&self.timers));
                }
            }
            11 => self.detach(cx, dice, fuel),
            12 => journal.ring(dice),
            _ => self.rarely(cx, dice),
        }
    }

    async fn request(&mut self, cx: &mut Cx<'_, Self>, dice: &mut Dice, fuel: u8) {
        let Some(to) = self.journal.anybody(dice) else {
            return;
        };
        let from = self.journal.sender(cx.me());
        let plan = dice.next();
        let request = cx.request(to, |reply| {
            let mut message = self.journal.message(from, to, plan, fuel);
            message.ticket.excused = true; // the answer tells
            message.reply = Some(reply);
            message
        });
        let answer = request.within(self.time(dice)).await;
        if let Ok(answer) = answer
            && answer != plan
        {
            self.journal
                .fail(format!("{to:?} answered {answer}, not {plan}"));
        }
    }

    fn tell_some(&mut self, cx: &mut Cx<'_, Self>, dice: &mut Dice, fuel: u8) {
        let from = self.journal.sender(cx.me());
        let Some(to) = self.journal.anybody(dice) else {
            return;
        };
        for _ in 0..=dice.below(3) {
            let by_cx = dice.one_in(2);
            self.journal
                .tell(from, to, dice.next(), fuel, |message| match by_cx {
                    true => cx.tell(to, message),
                    false => to.tell(message),
                });
        }
    }

    /// Something beside the stage, that enters it later.
    fn detach(&mut self, cx: &mut Cx<'_, Self>, dice: &mut Dice, fuel: u8) {
        let (plan, journal) = (dice.next(), Arc::clone(&self.journal));
        let then = move |stage: &mut Self, cx: &mut Cx<'_, Self>, ()| {
            let _inside = stage.begin(cx, "an end of a detached task");
            if fuel > 0 {
                stage.tell_some(cx, &mut Dice::new(plan), fuel - 1);
            }
        };
        let detached = match dice.below(4) {
            0 => cx.detach(Bell::new(&journal), then),
            1 => {
                let work = cx.offload_io(|| ());
                cx.detach(async move { drop(work.await) }, then)
            }
            2 => cx.detach(YieldNow(false), then),
            _ => cx.detach(
                async {
                    YieldNow(false).await;
                    resume_unwind(Box::new("planned, in a task"))
                },
                then,
            ),
        };
        detached.expect("fewer than may be");
    }

    fn rarely(&mut self, cx: &mut Cx<'_, Self>, dice: &mut Dice) {
        let habits = self.habits;
        match dice.below(8) {
            0 | 1 if habits.panics => {
                lock(&self.journal.log).panics += 1;
                resume_unwind(Box::new("planned"));
            }
            2 if habits.ends => {
                self.journal.leave(cx.me());
                cx.stop_self();
            }
            3 if habits.ends => {
                if let Some(stage) = self.journal.anybody(dice) {
                    self.journal.leave(stage);
                    cx.destroy(stage);
                }
            }
            4 if habits.ends => {
                if let Some(stage) = self.journal.anybody(dice) {
                    self.journal.leave(stage);
                    cx.stop(stage);
                }
            }
            5 => drop(self.owed.pop()),
            _ => {
                if let Some(reply) = self.owed.pop() {
                    let _ = reply.send(0); // whoever asked has its answer, or has given up
                }
            }
        }
    }
}

impl Stage for Witness {
    type Msg = Message;

    async fn on_create(&mut self, cx: &mut Cx<'_, Self>) {
        let _inside = self.begin(cx, "create");
        self.journal.meet(cx.me());
        self.act(cx, self.life, 1).await;
    }

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Message) {
        let _inside = self.begin(cx, "message");
        let Message {
            ticket,
            plan,
            fuel,
            reply,
        } = message;
        ticket.begin(cx.me());
        self.act(cx, plan, fuel).await;
        if let Some(reply) = reply {
            let _ = reply.send(plan); // who asked may have given up
        }
    }

    async fn on_timer(&mut self, cx: &mut Cx<'_, Self>, timer: TimerId) {
        let _inside = self.begin(cx, "timer");
        if !self.timers.contains(&timer) {
            let me = cx.me();
            self.journal
                .fail(format!("{me:?}: {timer:?} is not its timer"));
        }
        self.act(cx, timer_seed(timer), 1).await;
    }

    async fn on_tick(&mut self, cx: &mut Cx<'_, Self>, _: Tick) {
        let _inside = self.begin(cx, "tick");
    }

    async fn on_destroy(&mut self, cx: &mut Cx<'_, Self>) {
        let inside = self.journal.enter(cx.me(), "destroy");
        {
            let mut log = lock(&self.journal.log);
            log.ended += 1;
            if let Some(record) = log.records.get_mut(&cx.me()) {
                record.over = true;
            }
        }
        let mut dice = Dice::new(self.life);
        if dice.one_in(2) {
            cx.sleep(self.time(&mut dice)).await;
        }
        drop(inside);
    }
}

/// What a timer does differs from timer to timer.
fn timer_seed(timer: TimerId) -> u64 {
    let text = format!("{timer:?}");
    text.bytes().fold(7, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

impl Drop for Witness {
    fn drop(&mut self) {
        let mut log = lock(&self.journal.log);
        log.states -= 1;
        drop(log);
        self.owed.clear();
    }
}

/// Lets everything else run once.
pub struct YieldNow(pub bool);

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Waits for [`Journal::ring`], by whichever thread.
pub struct Bell {
    journal: Arc<Journal>,
    rung: Arc<AtomicBool>,
    hangs: bool,
}

impl Bell {
    pub fn new(journal: &Arc<Journal>) -> Self {
        Self {
            journal: Arc::clone(journal),
            rung: Arc::default(),
            hangs: false,
        }
    }
}

impl Future for Bell {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.hangs, true) {
            let bell = (Arc::clone(&self.rung), cx.waker().clone());
            lock(&self.journal.bells).waiting.push(bell);
        }
        Poll::Pending
    }
}
