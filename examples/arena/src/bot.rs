//! Bots: many players in one process, who go for the nearest coin and measure.
//!
//! All connectors tell one channel what happens, with the time when it did; one thread takes it
//! from there and thinks. Nothing blocks the connectors' I/O thread.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, atomic::AtomicBool};
use std::time::{Duration, Instant};

use proscenium_connector::{Answer, Connector, Delivery, Event, Packet};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Target;
use crate::client::why;
use crate::messages::{self, Heading, PlayerId, Position, Standings, Steer, View, Welcome};
use crate::report::Report;
use crate::world::{self, Random};

/// What may wait for the thinking thread; beyond, views are missed and counted.
const HEARD_MAX: usize = 100_000;
/// A bot asks for the standings after so many views.
const ASK_EVERY: u64 = 20;

/// What a bot hears.
enum What {
    Event(Event),
    /// The answer to its authentication.
    Joined(Answer),
    /// The answer to its request for the standings, and when it asked.
    Standings(Instant, Answer),
}

struct Heard {
    bot: usize,
    at: Instant,
    what: What,
}

/// Where all bots tell what they hear.
#[derive(Clone)]
struct Ear {
    sender: SyncSender<Heard>,
    missed: Arc<AtomicU64>,
}

impl Ear {
    /// Called on the I/O thread, which must not wait.
    fn tell(&self, bot: usize, what: What) {
        let at = Instant::now();
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Heard { bot, at, what }) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Has `count` bots play for `length` from when all have come in, or until a signal, and reports
/// every second and at the end.
///
/// # Errors
/// Bad options; when no bot got in, why.
pub(crate) fn play(
    target: &Target,
    name: &str,
    count: usize,
    length: Option<Duration>,
    json: bool,
) -> Result<(), Box<dyn Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let (sender, heard) = mpsc::sync_channel(HEARD_MAX);
    let missed = Arc::default();
    let ear = Ear { sender, missed };
    let mut swarm = Swarm {
        bots: Vec::with_capacity(count),
        arena: target.arena,
        random: Random(1),
        report: Report::new(count),
        second: Report::new(count),
        refused: None,
        ear,
    };
    for number in 0..count {
        let bot = Bot::new(target, format!("{name}{number}"), number, &swarm.ear)?;
        drop(bot.connector.connect()); // an event tells how it went
        swarm.bots.push(bot);
    }
    swarm.run(&heard, length, &stop, json);
    match swarm.refused {
        Some(why) if swarm.report.joined == 0 => Err(format!("no bot got in: {why}").into()),
        _ => Ok(()),
    }
}

/// All bots and what they measured.
struct Swarm {
    bots: Vec<Bot>,
    arena: i64,
    random: Random,
    /// Since all have come in.
    report: Report,
    /// Since the last line.
    second: Report,
    refused: Option<String>,
    ear: Ear,
}

struct Bot {
    connector: Connector,
    name: String,
    number: usize,
    state: State,
    id: PlayerId,
    heading: Heading,
    /// The last input, and when it was sent if it has not been seen yet.
    input: u8,
    steered: Option<Instant>,
    views: u64,
    score: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Playing,
    /// It will not come (back).
    Gone,
}

impl Bot {
    fn new(
        target: &Target,
        name: String,
        number: usize,
        ear: &Ear,
    ) -> Result<Self, Box<dyn Error>> {
        let ear = ear.clone();
        let connector = target
            .connector()
            .delivery(Delivery::IoThread)
            .on_event(move |event| ear.tell(number, What::Event(event)))
            .build()?;
        Ok(Self {
            connector,
            name,
            number,
            state: State::Coming,
            id: 0,
            heading: Heading::Still,
            input: 0,
            steered: None,
            views: 0,
            score: 0,
        })
    }
}

impl Swarm {
    fn run(
        &mut self,
        heard: &Receiver<Heard>,
        length: Option<Duration>,
        stop: &AtomicBool,
        json: bool,
    ) {
        let mut all_in = None;
        let mut line = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            match heard.recv_timeout(Duration::from_millis(50)) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if all_in.is_none() && self.bots.iter().all(|bot| bot.state != State::Coming) {
                all_in = Some(Instant::now());
                self.report.begin();
            }
            if line.elapsed() >= Duration::from_secs(1) {
                line = Instant::now();
                self.count();
                self.second.print(json, "");
                self.second.begin();
            }
            let over = |began: Instant| length.is_some_and(|length| began.elapsed() >= length);
            if self.bots.iter().all(|bot| bot.state == State::Gone) || all_in.is_some_and(over) {
                break;
            }
        }
        self.count();
        self.report.print(json, "in all: ");
    }

    /// Brings what is not counted as it happens up to date.
    fn count(&mut self) {
        let coins = self.bots.iter().map(|bot| u64::from(bot.score)).sum();
        let in_state = |state| self.bots.iter().filter(|bot| bot.state == state).count();
        let (playing, gone) = (in_state(State::Playing), in_state(State::Gone));
        let missed = self.ear.missed.load(Ordering::Relaxed);
        for report in [&mut self.report, &mut self.second] {
            report.coins = coins;
            report.playing = playing;
            report.gone = gone;
            report.views_missed = missed;
        }
    }

    /// Notes something in both reports.
    fn note(&mut self, note: impl Fn(&mut Report)) {
        note(&mut self.report);
        note(&mut self.second);
    }

    fn take(&mut self, heard: Heard) {
        let (number, at) = (heard.bot, heard.at);
        let Some(bot) = self.bots.get_mut(number) else {
            return;
        };
        match heard.what {
            What::Event(Event::Connected) if bot.state == State::Coming => self.join(number),
            What::Event(Event::Received(packet)) => match packet.msg_id.as_str() {
                messages::WELCOME => self.welcome(number, &packet),
                messages::VIEW => self.view(number, at, &packet),
                messages::CLOSING => bot.state = State::Gone,
                _ => {}
            },
            What::Event(Event::Disconnected { reconnecting, .. }) => {
                bot.steered = None;
                bot.heading = Heading::Still; // as its player does
                if !reconnecting {
                    bot.state = State::Gone;
                }
                self.note(|report| report.disconnects += 1);
            }
            What::Event(Event::ConnectFailed {
                error,
                reconnecting: false,
            }) => self.give_up(number, error.to_string()),
            What::Event(_) => {}
            What::Joined(Ok(_)) => {
                bot.state = State::Playing;
                self.note(|report| report.joined += 1);
            }
            What::Joined(Err(error)) => self.give_up(number, why(&error)),
            What::Standings(asked, Ok(answer)) => {
                if let Some(standings) = Standings::decode(&answer.payload) {
                    bot.score = standings.own;
                }
                self.note(|report| report.answered(at - asked));
            }
            What::Standings(_, Err(_)) => self.note(|report| report.unanswered += 1),
        }
    }

    fn give_up(&mut self, number: usize, why: String) {
        self.bots[number].state = State::Gone;
        self.refused.get_or_insert(why);
        self.note(|report| report.refused += 1);
    }

    fn join(&mut self, number: usize) {
        let (bot, ear) = (&self.bots[number], self.ear.clone());
        let name = bot.name.as_bytes();
        let told = move |answer| ear.tell(number, What::Joined(answer));
        let id = messages::AUTHENTICATE;
        // If it cannot be sent, the connection has gone again, and an event says so.
        let _ = bot.connector.authenticate_with(self.arena, id, name, told);
    }

    fn welcome(&mut self, number: usize, packet: &Packet) {
        let Some(welcome) = Welcome::decode(&packet.payload) else {
            return;
        };
        let bot = &mut self.bots[number];
        (bot.id, bot.score) = (welcome.id, welcome.score);
        if welcome.resumed {
            self.note(|report| report.resumed += 1);
        }
    }

    fn view(&mut self, number: usize, at: Instant, packet: &Packet) {
        let bytes = packet.payload.len() as u64;
        self.note(|report| {
            report.views += 1;
            report.view_bytes += bytes;
        });
        let Some(view) = View::decode(&packet.payload) else {
            return self.note(|report| report.garbled += 1);
        };
        let bot = &mut self.bots[number];
        let Some(me) = view.players.iter().find(|one| one.id == bot.id) else {
            return;
        };
        bot.views += 1;
        let asks = bot.views % ASK_EVERY == 1;
        let mut took = None;
        if me.input == bot.input {
            took = bot.steered.take().map(|sent| at - sent);
        }
        // One input after the other: what was sent is seen before it is thought about again.
        if bot.steered.is_none() {
            bot.steer(self.arena, wanted(&view, me.at, &mut self.random));
        }
        if asks {
            bot.ask(self.arena, self.ear.clone());
        }
        if let Some(took) = took {
            self.note(|report| report.steered(took));
        }
    }
}

impl Bot {
    fn steer(&mut self, arena: i64, heading: Heading) {
        if heading == self.heading {
            return;
        }
        let input = self.input.wrapping_add(1);
        let steer = Steer { heading, input }.encode();
        if self.connector.send(arena, messages::STEER, &steer).is_ok() {
            self.heading = heading;
            self.input = input;
            self.steered = Some(Instant::now());
        }
    }

    fn ask(&self, arena: i64, ear: Ear) {
        let (number, asked) = (self.number, Instant::now());
        let told = move |answer| ear.tell(number, What::Standings(asked, answer));
        // If it cannot be sent, there is no connection, and an event says so.
        let id = messages::STANDINGS;
        let _ = self.connector.request_with(arena, id, &[], told);
    }
}

/// Towards the nearest coin, the longer way first, around whoever stands there.
fn wanted(view: &View, at: Position, random: &mut Random) -> Heading {
    let away = |coin: &Position| {
        let (x, y) = (i16::from(coin.x), i16::from(coin.y));
        (x - i16::from(at.x), y - i16::from(at.y))
    };
    let ways = view.coins.iter().map(away);
    let nearest = ways.min_by_key(|(x, y)| x.abs() + y.abs());
    let mut headings = Vec::new();
    if let Some((x, y)) = nearest {
        let east_west = if x > 0 { Heading::East } else { Heading::West };
        let north_south = if y > 0 {
            Heading::South
        } else {
            Heading::North
        };
        match (x.abs(), y.abs()) {
            (_, 0) => headings.push(east_west),
            (0, _) => headings.push(north_south),
            (x, y) if x >= y => headings.extend([east_west, north_south]),
            _ => headings.extend([north_south, east_west]),
        }
    }
    // Else anywhere.
    let any = 1 + random.below(4);
    headings.extend(Heading::ALL[any..].iter().chain(&Heading::ALL[1..any]));
    let free = |to: Position| view.players.iter().all(|one| one.at != to);
    let mut free = headings
        .into_iter()
        .filter(|&heading| world::next(at, heading).is_some_and(free));
    free.next().unwrap_or(Heading::Still)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Seen;

    #[test]
    fn a_bot_goes_to_the_nearest_coin_and_around_others() {
        let at = |x, y| Position { x, y };
        let mut view = View {
            tick: 0,
            players: Vec::new(),
            coins: vec![at(9, 5), at(5, 1), at(3, 6)],
        };
        let go = |view: &View| wanted(view, at(5, 5), &mut Random(1));
        assert_eq!(go(&view), Heading::West);
        let stand = |view: &mut View, x, y| {
            view.players.push(Seen {
                id: 2,
                letter: b'x',
                at: at(x, y),
                away: false,
                input: 0,
            });
        };
        stand(&mut view, 4, 5);
        assert_eq!(go(&view), Heading::South);
        stand(&mut view, 5, 6);
        assert!([Heading::North, Heading::East].contains(&go(&view)));
        stand(&mut view, 5, 4);
        assert_eq!(go(&view), Heading::East);
        stand(&mut view, 6, 5);
        assert_eq!(go(&view), Heading::Still);
        let corner = wanted(&View::default(), at(0, 0), &mut Random(1));
        assert!([Heading::East, Heading::South].contains(&corner));
    }
}
