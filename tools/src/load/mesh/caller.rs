//! The stages that ask, and what they count together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proscenium_play::system::{GetOrCreateStageReq, SystemMessage};
use proscenium_play::{ErrorCode, Failure, Packet, PlayStage, Proto, Result, StageCx};

use crate::load::latency::Latency;
use crate::load::node::{ECHO, MARK, SERVER_NID};
use crate::load::schedule::Schedule;

/// The name of the stage type on both servers.
pub(crate) const KIND: &str = "echo";
/// The stage of the other server that answers marks.
const MARK_STAGE: i64 = -1;
/// A stage that waits until something is due looks at the time at least so often.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// From this length on payloads begin with a number.
const NUMBER_BYTES: usize = 8;

/// What is to be done. Times count from the beginning of the load.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) callers: u32,
    /// Stages of the other server.
    pub(super) stages: u32,
    pub(super) size: usize,
    /// Requests per second of all callers; `None`: as fast as answers come.
    pub(super) rate: Option<f64>,
    /// The measuring window.
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// How long what is due may be sent after it.
    pub(super) drain: Duration,
}

/// What all callers count.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) sent: u64,
    /// Answers with code 0, in all and inside the window.
    pub(super) received: u64,
    pub(super) in_window: u64,
    pub(super) wrong: u64,
    pub(super) unsent: u64,
    /// Answers by error code.
    pub(super) errors: BTreeMap<u16, u64>,
    pub(super) latency: Latency,
}

impl Totals {
    fn new() -> Self {
        Self {
            sent: 0,
            received: 0,
            in_window: 0,
            wrong: 0,
            unsent: 0,
            errors: BTreeMap::new(),
            latency: Latency::new(),
        }
    }
}

/// The plan, its clock, and the totals. The callers live on one shard: nobody waits for the lock.
#[derive(Debug)]
pub(super) struct Tally {
    plan: Plan,
    window: std::ops::Range<u64>,
    begin: OnceLock<Instant>,
    totals: Mutex<Totals>,
}

impl Tally {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            window: plan.from.as_nanos() as u64..plan.to.as_nanos() as u64,
            plan,
            begin: OnceLock::new(),
            totals: Mutex::new(Totals::new()),
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The load begins now.
    pub(super) fn begin(&self) {
        self.begin.get_or_init(Instant::now);
    }

    /// How long ago the load began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begin.get().map(Instant::elapsed).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        // Whatever panicked: numbers are numbers.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far, which is not counted any more.
    pub(super) fn totals(&self) -> Totals {
        std::mem::replace(&mut *self.lock(), Totals::new())
    }

    #[inline]
    pub(super) fn sent(&self) {
        self.lock().sent += 1;
    }

    /// An answer came at `now` to what was sent, or due, at `begin`, in nanoseconds: the right one
    /// or not, or an error code.
    #[inline]
    pub(super) fn answered(&self, answer: Answer, begin: u64, now: u64) {
        let mut totals = self.lock();
        match answer {
            Ok(right) => {
                totals.received += 1;
                totals.wrong += u64::from(!right);
                let counts_from = if self.plan.rate.is_some() { begin } else { now };
                if self.window.contains(&counts_from) {
                    totals.in_window += 1;
                    totals.latency.begin_batch(now);
                    totals.latency.add(begin);
                }
            }
            Err(code) => *totals.errors.entry(code).or_default() += 1,
        }
    }

    pub(super) fn left_unsent(&self, requests: u64) {
        self.lock().unsent += requests;
    }
}

/// A stage that asks, one request at a time.
pub(super) struct Caller {
    id: i64,
    tally: Arc<Tally>,
}

impl PlayStage for Caller {
    type Actor = ();

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Go" => {
                let stage = self.id % i64::from(self.tally.plan.stages) + 1;
                if let Err(code) = there(cx, stage).await {
                    self.tally.answered(Err(code.0), 0, 0);
                } else if self.tally.plan.rate.is_some() {
                    self.offer(cx, stage).await;
                } else {
                    self.ask_on(cx, stage).await;
                }
                cx.reply("Done", ())?;
            }
            MARK => {
                there(cx, MARK_STAGE).await?;
                let answer = cx.request_to_stage((SERVER_NID, MARK_STAGE), MARK, ());
                cx.reply(MARK, answer.await?.payload)?;
            }
            _ => return Err(Failure::code(ErrorCode::HANDLER_NOT_FOUND)),
        }
        Ok(())
    }
}

/// Has that stage of the other server be there.
async fn there(cx: &StageCx<'_, Caller>, stage: i64) -> std::result::Result<(), ErrorCode> {
    let create = GetOrCreateStageReq {
        stage_type: KIND.to_owned(),
        ..Default::default()
    };
    let to = (SERVER_NID, stage);
    let made = cx.request_to_stage(to, GetOrCreateStageReq::ID, Proto(&create));
    made.await.map(drop)
}

impl Caller {
    pub(super) fn new(id: i64, tally: Arc<Tally>) -> Self {
        Self { id, tally }
    }

    /// The next payload of a caller: those of all callers differ, if there is room for it.
    fn number(&self, payload: &mut [u8], count: u64) {
        if let Some(place) = payload.get_mut(..NUMBER_BYTES) {
            let number = (self.id as u64) << 40 | count;
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.tally.plan.size).map(|at| at as u8).collect()
    }

    /// One request and its answer.
    async fn ask(&self, cx: &StageCx<'_, Self>, stage: i64, payload: &[u8]) -> Answer {
        self.tally.sent();
        let asked = cx.request_to_stage((SERVER_NID, stage), ECHO, payload);
        match asked.await {
            Ok(answer) => Ok(answer.payload[..] == *payload && answer.msg_id == ECHO),
            Err(code) => Err(code.0),
        }
    }

    /// Asks as fast as answers come. Time is that of the slice of events, as for `load node`.
    async fn ask_on(&self, cx: &StageCx<'_, Self>, stage: i64) {
        let offset = (self.tally.elapsed().as_nanos() as u64).wrapping_sub(cx.now().as_nanos());
        let now = || cx.now().as_nanos().wrapping_add(offset);
        let (mut payload, mut count) = (self.payload(), 0);
        let mut begin = now();
        loop {
            self.number(&mut payload, count);
            let answer = self.ask(cx, stage, &payload).await;
            let end = now();
            self.tally.answered(answer, begin, end);
            // After an error the next would fail as fast as the processor can.
            if answer.is_err() || end >= self.tally.window.end {
                return;
            }
            (begin, count) = (end, count + 1);
        }
    }

    /// Asks when something is due. Time is that of the clock: a slice may be long.
    async fn offer(&self, cx: &StageCx<'_, Self>, stage: i64) {
        let plan = &self.tally.plan;
        let rate = plan.rate.unwrap_or_default();
        let first = self.id as f64 * 1e9 / rate;
        let mut schedule = Schedule::new(rate / f64::from(plan.callers), 1, first as u64);
        let last = (plan.to + plan.drain).as_nanos() as u64;
        let now = || self.tally.elapsed().as_nanos() as u64;
        let (mut payload, mut count) = (self.payload(), 0);
        while schedule.next() < self.tally.window.end {
            let (due, at) = (schedule.next(), now());
            if at < due {
                let wait = Duration::from_nanos(due - at);
                cx.sleep(wait.min(SLEEP_MAX)).await;
                continue;
            }
            if at >= last {
                let unsent = schedule.overdue(self.tally.window.end - 1);
                return self.tally.left_unsent(unsent);
            }
            self.number(&mut payload, count);
            let answer = self.ask(cx, stage, &payload).await;
            self.tally.answered(answer, due, now());
            if answer.is_err() {
                return;
            }
            schedule.take();
            count += 1;
        }
    }
}

/// Whether it was the right one, or an error code.
type Answer = std::result::Result<bool, u16>;
