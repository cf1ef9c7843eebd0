//! The terminal client: keys steer, every view is drawn.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use proscenium_connector::{Answer, Connector, Event, Packet, Pending, Reconnect, RequestError};

use crate::Target;
use crate::messages::{self, Heading, Position, Standings, Steer, View, Welcome};
use crate::world::{AREA, HEIGHT, WIDTH};

/// Frames are drawn, and keys read, so often.
const FRAME: Duration = Duration::from_millis(33);
const HELP: &str = "arrows or WASD: go   space: stop   q: leave";

/// Plays until the player leaves.
///
/// # Errors
/// No terminal, no connection, or the server does not let the player in.
pub(crate) fn play(target: &Target, name: &str) -> Result<(), Box<dyn Error>> {
    if !io::stdout().is_terminal() {
        return Err("the client draws on a terminal; try --bots 10".into());
    }
    let connector = target.connector().build()?;
    connector.connect().wait()?;
    let joined = connector.authenticate(target.arena, messages::AUTHENTICATE, name.as_bytes());
    joined.wait().map_err(|error| why(&error))?;

    let mut screen = Screen::open()?;
    let mut game = Game::default();
    while let Some(pressed) = screen.key()? {
        while let Some(event) = connector.next_event() {
            game.take(event);
        }
        game.keep_standings(&connector, target.arena);
        if let Some(heading) = pressed.heading {
            // A key that is pressed without a connection is forgotten, like on any server.
            let _ = connector.send(target.arena, messages::STEER, &game.steer(heading));
        }
        screen.draw(&game.lines())?;
        if let Some(why) = game.over {
            drop(screen);
            println!("{why}; you have {} coins", game.standings.own);
            return Ok(());
        }
    }
    Ok(())
}

/// What a refusal says, in words.
pub(crate) fn why(error: &RequestError) -> String {
    match error {
        RequestError::Refused(packet) if !packet.payload.is_empty() => {
            format!("{error}: {}", String::from_utf8_lossy(&packet.payload))
        }
        error => error.to_string(),
    }
}

impl Target {
    /// A connector that comes back by itself when it loses the connection.
    pub(crate) fn connector(&self) -> proscenium_connector::Builder {
        let builder = self.endpoint.connector().reconnect(Reconnect {
            first: Duration::from_millis(100),
            max: Duration::from_secs(2),
            attempts: 20,
        });
        match &self.trust_pem {
            Some(pem) => builder.trust_pem(pem),
            None => builder,
        }
    }
}

/// What the client knows of the game.
#[derive(Default)]
struct Game {
    me: Option<Welcome>,
    view: View,
    standings: Standings,
    /// The request for the standings that is under way, and when the last one was made.
    asked: Option<Pending<Answer>>,
    asked_at: Option<Instant>,
    input: u8,
    status: String,
    over: Option<String>,
}

impl Game {
    fn take(&mut self, event: Event) {
        match event {
            Event::Received(packet) => self.receive(&packet),
            Event::Connected => self.status = "connected".to_owned(),
            Event::Disconnected {
                reason,
                reconnecting: true,
            } => self.status = format!("{reason}; trying again"),
            Event::Disconnected { reason, .. } => self.over = Some(reason.to_string()),
            Event::ConnectFailed {
                error,
                reconnecting: false,
            } => self.over = Some(error.to_string()),
            _ => {}
        }
    }

    fn receive(&mut self, packet: &Packet) {
        match packet.msg_id.as_str() {
            messages::VIEW => self.view = View::decode(&packet.payload).unwrap_or_default(),
            messages::WELCOME => {
                self.me = Welcome::decode(&packet.payload);
                let resumed = self.me.is_some_and(|me| me.resumed);
                self.status = if resumed { "welcome back" } else { "welcome" }.to_owned();
            }
            messages::CLOSING => {
                self.over = Some(String::from_utf8_lossy(&packet.payload).into_owned());
            }
            _ => {}
        }
    }

    fn steer(&mut self, heading: Heading) -> [u8; 2] {
        self.input = self.input.wrapping_add(1);
        let input = self.input;
        Steer { heading, input }.encode()
    }

    /// Asks for the standings every second, and looks whether they have come.
    fn keep_standings(&mut self, connector: &Connector, arena: i64) {
        if let Some(pending) = &mut self.asked {
            let Some(answer) = pending.try_take() else {
                return;
            };
            self.asked = None;
            let standings = answer.ok().and_then(|one| Standings::decode(&one.payload));
            self.standings = standings.unwrap_or_default();
        }
        if self
            .asked_at
            .is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
        {
            self.asked = Some(connector.request(arena, messages::STANDINGS, &[]));
            self.asked_at = Some(Instant::now());
        }
    }

    /// Where the player is: as last seen, else as told.
    fn at(&self) -> Option<Position> {
        let me = self.me?;
        let seen = self.view.players.iter().find(|one| one.id == me.id);
        Some(seen.map_or(me.at, |seen| seen.at))
    }

    /// The picture: as far as can be seen to each side, with the player in the middle.
    fn lines(&self) -> Vec<String> {
        let Some(center) = self.at() else {
            return vec!["waiting for the server".to_owned()];
        };
        let (wide, high) = (i16::from(AREA.0), i16::from(AREA.1));
        let mut lines = Vec::new();
        for y in -high..=high {
            let row = (-wide..=wide).map(|x| {
                let (x, y) = (i16::from(center.x) + x, i16::from(center.y) + y);
                self.letter_at(x, y)
            });
            let row: String = row.collect();
            let rank = (y + high) as usize;
            let best = match rank.checked_sub(1) {
                None => format!("coins: {}", self.standings.own),
                Some(rank) => self
                    .standings
                    .best
                    .get(rank)
                    .map_or_else(String::new, |(score, name)| format!("{score:6} {name}")),
            };
            lines.push(format!("{row}  {best}").trim_end().to_owned());
        }
        lines.push(format!("({}, {})  {}", center.x, center.y, self.status));
        lines.push(HELP.to_owned());
        lines
    }

    fn letter_at(&self, x: i16, y: i16) -> char {
        let (Ok(x), Ok(y)) = (u8::try_from(x), u8::try_from(y)) else {
            return '#';
        };
        if x >= WIDTH || y >= HEIGHT {
            return '#';
        }
        let at = Position { x, y };
        if let Some(seen) = self.view.players.iter().find(|one| one.at == at) {
            let letter = char::from(seen.letter);
            return match self.me {
                Some(me) if me.id == seen.id => '@',
                _ if seen.away => letter.to_ascii_lowercase(),
                _ => letter.to_ascii_uppercase(),
            };
        }
        if self.view.coins.contains(&at) {
            '$'
        } else {
            '.'
        }
    }
}

/// What the player wants, if anything.
struct Pressed {
    heading: Option<Heading>,
}

/// The terminal, which is put back when this is dropped.
struct Screen(io::Stdout);

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let mut screen = Self(io::stdout());
        execute!(screen.0, terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Waits for a key until the next frame; `None` to leave.
    fn key(&mut self) -> io::Result<Option<Pressed>> {
        let nothing = Some(Pressed { heading: None });
        if !event::poll(FRAME)? {
            return Ok(nothing);
        }
        let event::Event::Key(key) = event::read()? else {
            return Ok(nothing);
        };
        if key.kind == KeyEventKind::Release {
            return Ok(nothing);
        }
        Ok(pressed(key))
    }

    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        for (row, line) in (0..).zip(lines) {
            let clear = terminal::Clear(terminal::ClearType::UntilNewLine);
            queue!(self.0, cursor::MoveTo(0, row), style::Print(line), clear)?;
        }
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that has gone.
        let _ = execute!(self.0, terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

fn pressed(key: KeyEvent) -> Option<Pressed> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let heading = match key.code {
        KeyCode::Char('c') if control => return None,
        KeyCode::Char('q') | KeyCode::Esc => return None,
        KeyCode::Up | KeyCode::Char('w') => Heading::North,
        KeyCode::Right | KeyCode::Char('d') => Heading::East,
        KeyCode::Down | KeyCode::Char('s') => Heading::South,
        KeyCode::Left | KeyCode::Char('a') => Heading::West,
        KeyCode::Char(' ') => Heading::Still,
        _ => return Some(Pressed { heading: None }),
    };
    let heading = Some(heading);
    Some(Pressed { heading })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Seen;

    #[test]
    fn the_picture_has_the_player_in_the_middle() {
        let at = |x, y| Position { x, y };
        let seen = |id, letter, at, away| Seen {
            id,
            letter,
            at,
            away,
            input: 0,
        };
        let mut game = Game::default();
        assert_eq!(game.lines(), ["waiting for the server"]);
        game.receive(&Packet::new(
            1,
            messages::WELCOME,
            [7, 0, 1, 0, 0, 0, 0, 0, 0],
        ));
        game.view = View {
            tick: 1,
            players: vec![
                seen(7, b'm', at(1, 0), false),
                seen(8, b'b', at(2, 0), false),
                seen(9, b'C', at(3, 0), true),
            ],
            coins: vec![at(0, 1)],
        };
        game.standings.best = vec![(3, "bob".to_owned())];
        let lines = game.lines();
        let (wide, high) = (usize::from(AREA.0), usize::from(AREA.1));
        let outside = "#".repeat(wide - 1);
        let row = |cells: &str| format!("{outside}{cells:.<len$}", len = wide + 2);
        assert_eq!(lines[high - 1], "#".repeat(2 * wide + 1));
        assert_eq!(lines[high], row(".@Bc"));
        assert_eq!(lines[high + 1], row("$"));
        assert!(lines[0].ends_with("#  coins: 0"), "{}", lines[0]);
        assert!(lines[1].ends_with("#       3 bob"), "{}", lines[1]);
        assert_eq!(lines[2 * high + 1], "(1, 0)  welcome");
    }

    #[test]
    fn keys_steer() {
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let heading = |code| pressed(key(code)).map(|one| one.heading);
        assert_eq!(heading(KeyCode::Up), Some(Some(Heading::North)));
        assert_eq!(heading(KeyCode::Char('a')), Some(Some(Heading::West)));
        assert_eq!(heading(KeyCode::Char('x')), Some(None));
        assert_eq!(heading(KeyCode::Char('q')), None);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(pressed(interrupt).is_none());
    }
}
