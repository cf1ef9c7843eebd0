//! A stage that does what its clients say, and writes down what happens to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proscenium_play::{
    Actor, ActorCx, ActorId, Failure, LateReply, Leave, Member, Packet, Payload, PlayServer,
    PlayServerBuilder, PlayStage, Result, StageCx, StageKind, Tick, TimerId, Verdict,
};

use super::{PATIENCE, eventually};

/// What happened, in order, over all stages.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn write(&self, line: impl Into<String>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn has(&self, line: &str) -> bool {
        self.all().iter().any(|known| known == line)
    }

    pub fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|known| *known == line).count()
    }

    /// Waits for a line.
    #[track_caller]
    pub fn await_line(&self, line: &str) {
        eventually(line, || self.has(line).then_some(()));
    }
}

/// Who is in the hall. `account:flag,flag` in the payload of the authentication says how it goes:
/// `wrong`, `error`, `coded`, `panic`, `empty`, `slow`, `hello`, `long`.
pub struct Guest {
    journal: Journal,
    name: String,
    pub seen: u64,
}

impl Actor for Guest {
    async fn on_create(&mut self, _: &mut ActorCx<'_>) {
        self.journal.write("actor.on_create");
    }

    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let text = std::str::from_utf8(packet.payload())?;
        let (name, flags) = text.split_once(':').unwrap_or((text, ""));
        self.name = name.to_owned();
        self.journal.write(format!("{name}.on_authenticate"));
        let has = |flag: &str| flags.split(',').any(|known| known == flag);
        if has("slow") {
            cx.sleep(Duration::from_millis(20)).await;
        }
        if has("panic") {
            std::panic::resume_unwind(Box::new("planned"));
        }
        if has("error") {
            "seven".parse::<u32>()?;
        }
        if has("coded") {
            return Err(Failure::code(1001).with("No", "not today"));
        }
        if has("long") {
            cx.set_account_id(name);
            return Ok(Verdict::accept().with("Long", vec![b'x'; 2 << 20]));
        }
        if has("wrong") {
            return Ok(Verdict::refuse().with("Wrong", "wrong password"));
        }
        if !has("empty") {
            cx.set_account_id(name);
        }
        Ok(if has("hello") {
            Verdict::accept().with("Hello", name)
        } else {
            Verdict::accept()
        })
    }

    async fn on_post_authenticate(&mut self, cx: &mut ActorCx<'_>) {
        let account = cx.account_id();
        self.journal
            .write(format!("{account}.on_post_authenticate"));
    }

    async fn on_destroy(&mut self, _: &mut ActorCx<'_>) {
        self.journal.write(format!("{}.on_destroy", self.name));
    }
}

/// Counts how often it is encoded.
#[derive(Default)]
struct Counted(std::cell::Cell<u32>);

impl Payload for Counted {
    fn size(&self) -> usize {
        4
    }

    fn write(&self, out: &mut [u8]) -> usize {
        self.0.set(self.0.get() + 1);
        "once".write(out)
    }
}

/// See the module's page. Stage ids below 0 refuse to be created; -7 panics there.
pub struct Hall {
    id: i64,
    journal: Journal,
    late: Vec<LateReply>,
    ticks: u64,
    asker: Option<ActorId>,
    alarms: Vec<TimerId>,
}

impl Hall {
    fn write(&self, what: &str) {
        self.journal.write(format!("stage.{what}"));
    }
}

impl PlayStage for Hall {
    type Actor = Guest;

    async fn on_create(
        &mut self,
        _: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        self.write("on_create");
        assert_ne!(self.id, -7, "planned");
        if packet.msg_id() == "Error" {
            return Err(Failure::new("planned"));
        }
        if self.id < 0 {
            return Ok(Verdict::refuse());
        }
        Ok(Verdict::accept().with("CreateReply", packet.payload()))
    }

    async fn on_post_create(&mut self, _: &mut StageCx<'_, Self>) {
        self.write("on_post_create");
    }

    async fn on_join(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
    ) -> Result<Verdict> {
        self.write(&format!("on_join({})", actor.account_id()));
        assert!(cx.find(actor.account_id()).is_none(), "not in yet");
        match actor.account_id() {
            "banned" => return Ok(Verdict::refuse().with("Banned", "for ever")),
            "broken" => return Err(Failure::new("planned")),
            "denied" => {
                return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied).into());
            }
            "bomb" => std::panic::resume_unwind(Box::new("planned")),
            "patient" => cx.sleep(Duration::from_millis(20)).await,
            _ => {}
        }
        Ok(Verdict::accept())
    }

    async fn on_post_join(&mut self, cx: &mut StageCx<'_, Self>, actor: &mut Member<'_, Guest>) {
        self.write(&format!("on_post_join({})", actor.account_id()));
        assert_eq!(cx.find(actor.account_id()), Some(actor.id()));
        match actor.account_id() {
            "shy" => assert!(cx.leave(actor.id())),
            "greeted" => cx.send(actor.id(), "Welcome", "come in").unwrap(),
            _ => {}
        }
    }

    async fn on_connection_changed(
        &mut self,
        _: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        connected: bool,
    ) {
        assert_eq!(actor.is_connected(), connected);
        self.write(&format!(
            "on_connection({},{connected})",
            actor.account_id()
        ));
    }

    async fn on_leave(
        &mut self,
        _: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        why: Leave,
    ) {
        self.write(&format!("on_leave({},{why:?})", actor.account_id()));
    }

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        packet: Packet<'_>,
    ) -> Result {
        actor.seen += 1;
        match packet.msg_id() {
            "Echo" => cx.reply("EchoReply", packet.payload())?,
            "Note" => self.write(std::str::from_utf8(packet.payload())?),
            "Seen" => cx.reply("SeenReply", actor.seen.to_string())?,
            "Where" => cx.reply("WhereReply", cx.shard().to_string())?,
            "Twice" => {
                cx.reply("First", ())?;
                assert_eq!(cx.reply("Second", ()).is_err(), packet.is_request());
            }
            "Push" => cx.send(actor.id(), "Pushed", packet.payload())?,
            "All" => drop(cx.broadcast("Said", packet.payload())?),
            "Others" => drop(cx.broadcast_except(actor.id(), "Said", packet.payload())?),
            "Counted" => {
                let counted = Counted::default();
                cx.broadcast("Said", &counted)?;
                cx.reply("CountedReply", counted.0.get().to_string())?;
            }
            "Two" => drop(cx.broadcast_to(cx.actors().into_iter().take(2), "Said", "two")?),
            "Tag" => {
                // The state of all the others is at hand beside the own one.
                let others = cx.actors().into_iter().filter_map(|id| cx.actor(id));
                others.for_each(|mut other| other.seen += 1000);
                cx.reply("TagReply", ())?;
            }
            "Nothing" => {}
            "Fail" => return Err(Failure::code(1234).with("FailReply", "why")),
            "Oops" => drop("seven".parse::<u32>()?),
            "Denied" => {
                return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied).into());
            }
            "LongId" => cx.reply(&"x".repeat(129), ())?,
            "Panic" => std::panic::resume_unwind(Box::new("planned")),
            "Slow" => {
                self.write("slow begins");
                let seconds = std::str::from_utf8(packet.payload())?.parse();
                let time = seconds.map_or(Duration::from_millis(20), Duration::from_secs);
                cx.sleep(time).await;
                self.write("slow ends");
                cx.reply("SlowReply", packet.payload())?;
            }
            "Defer" => self.late.extend(cx.defer_reply()),
            "Release" => {
                for late in self.late.drain(..) {
                    cx.reply_late(late, "LateReply", "at last")?;
                }
            }
            "Forget" => self.late.clear(),
            _ => return self.more(cx, actor, packet).await,
        }
        Ok(())
    }

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Ask" => cx.reply("AskReply", packet.payload())?,
            "Tell" => {
                let text = std::str::from_utf8(packet.payload())?;
                self.write(&format!("told {text}"));
                cx.broadcast("Told", text)?;
            }
            "Close" => cx.close_stage(),
            "Fail" => return Err(Failure::code(1500)),
            "Panic" => std::panic::resume_unwind(Box::new("planned")),
            _ => {}
        }
        Ok(())
    }

    async fn on_timer(&mut self, cx: &mut StageCx<'_, Self>, timer: TimerId) {
        self.write(&format!("on_timer {timer:?}"));
        if let Some(at) = self.alarms.iter().position(|alarm| *alarm == timer) {
            self.alarms.swap_remove(at);
            self.write(&format!("alarm of {}", self.id));
        }
        if let Some(id) = self.asker {
            let _ = cx.send(id, "Timer", ());
        }
    }

    async fn on_tick(&mut self, cx: &mut StageCx<'_, Self>, tick: Tick) {
        self.ticks += 1 + tick.missed;
        let _ = cx.broadcast("Tick", self.ticks.to_le_bytes());
    }

    async fn on_destroy(&mut self, cx: &mut StageCx<'_, Self>) {
        self.write(&format!("on_destroy with {}", cx.actor_count()));
    }
}

impl Hall {
    /// What changes the hall itself, or leaves it.
    async fn more(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Leave" => {
                cx.reply("LeaveReply", ())?;
                cx.leave(actor.id());
            }
            "Kick" => drop(cx.kick(actor.id())),
            "Close" => {
                cx.reply("CloseReply", ())?;
                cx.close_stage();
            }
            "Timer" => {
                self.asker = Some(actor.id());
                let timer = cx.set_timer(Duration::from_millis(1));
                cx.reply("TimerReply", format!("{timer:?}"))?;
            }
            "Alarm" => {
                let seconds = std::str::from_utf8(packet.payload())?.parse()?;
                self.alarms.push(cx.set_timer(Duration::from_secs(seconds)));
            }
            "Silence" => {
                let alarm = self.alarms.pop();
                let cancelled = alarm.is_some_and(|alarm| cx.cancel_timer(alarm));
                cx.reply("SilenceReply", cancelled.to_string())?;
            }
            "Tick" => drop(cx.start_tick(Duration::from_millis(5))),
            "Offload" => {
                let sum = cx.offload_compute(|| (1..=100).sum::<u32>()).await?;
                cx.reply("OffloadReply", sum.to_string())?;
            }
            "BadOffload" => {
                let broken = || -> u32 { std::panic::resume_unwind(Box::new("planned")) };
                cx.offload_io(broken).await?;
            }
            "Detach" => {
                let work = cx.offload_io(|| 42);
                let late = cx.defer_reply();
                let id = actor.id();
                cx.detach(work, move |hall, cx, result| {
                    hall.write("detached");
                    if let Some(late) = late {
                        let result = result.unwrap_or(0).to_string();
                        let _ = cx.reply_late(late, "DetachReply", result);
                    }
                    cx.leave(id);
                })?;
            }
            "DetachPanic" => {
                let (work, late) = (cx.offload_io(|| ()), cx.defer_reply());
                cx.detach(work, move |_, _, _| {
                    let _late = late; // answered when it is dropped
                    std::panic::resume_unwind(Box::new("planned"));
                })?;
            }
            "AskStage" => {
                let id: i64 = std::str::from_utf8(packet.payload())?.parse()?;
                let what = if id == 3 { "Fail" } else { "Ask" };
                let content = cx.request_to_stage(id, what, "how are you").await?;
                cx.reply(&content.msg_id, &content.payload)?;
            }
            _ => return Err(Failure::code(12)),
        }
        Ok(())
    }
}

/// A kind of halls that write into `journal`.
pub fn halls(name: &'static str, journal: &Journal) -> StageKind<Hall> {
    let (of_stage, of_actor) = (journal.clone(), journal.clone());
    StageKind::new(
        name,
        move |id| Hall {
            id,
            journal: of_stage.clone(),
            late: Vec::new(),
            ticks: 0,
            asker: None,
            alarms: Vec::new(),
        },
        move || Guest {
            journal: of_actor.clone(),
            name: String::new(),
            seen: 0,
        },
    )
}

/// A server of halls on the loopback interface, where missing stages are created.
pub fn server(
    change: impl FnOnce(PlayServerBuilder) -> PlayServerBuilder,
) -> (PlayServer, Journal) {
    server_of(|kind| kind, change)
}

pub fn server_of(
    kind: impl FnOnce(StageKind<Hall>) -> StageKind<Hall>,
    change: impl FnOnce(PlayServerBuilder) -> PlayServerBuilder,
) -> (PlayServer, Journal) {
    let journal = Journal::default();
    let listener = proscenium_play::PlayListener::tcp("127.0.0.1:0").unwrap();
    let builder = PlayServer::builder()
        .stage(kind(halls("hall", &journal)))
        .default_stage("hall")
        .authentication_deadline(PATIENCE)
        .request_deadline(PATIENCE)
        .listen(listener);
    (change(builder).start().unwrap(), journal)
}
