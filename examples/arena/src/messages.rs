//! What server and clients say to each other, and how it looks as bytes.
//!
//! | message | from | payload, numbers little-endian |
//! |---|---|---|
//! | `AuthenticateRequest` | client | the player's name |
//! | `Steer`, not answered | client | heading `u8`, number of this input `u8` |
//! | `Standings`, a request | client | nothing |
//! | `Standings`, its answer | server | own score `u32`, then for each of the best: score `u32`, length of the name `u8`, name |
//! | `Welcome` | server | own id `u16`, x `u8`, y `u8`, score `u32`, 1 `u8` if the player was here before |
//! | `View`, at most every tick | server | tick `u32`, number of players `u16`, for each: id `u16`, letter `u8`, x `u8`, y `u8`, away `u8`, last input `u8`; then for each coin: x `u8`, y `u8` |
//! | `Closing` | server | why, for people |
//!
//! `decode` never trusts a length: what does not fit is `None`.

/// The name of the player, to come in.
pub(crate) const AUTHENTICATE: &str = "AuthenticateRequest";
/// Where to go.
pub(crate) const STEER: &str = "Steer";
/// Who has how many coins.
pub(crate) const STANDINGS: &str = "Standings";
/// Who one is and where.
pub(crate) const WELCOME: &str = "Welcome";
/// What one sees.
pub(crate) const VIEW: &str = "View";
/// The server goes.
pub(crate) const CLOSING: &str = "Closing";

/// Error code of the application: the payload makes no sense.
pub(crate) const BAD_PAYLOAD: u16 = 1000;

/// Names a player in its arena.
pub(crate) type PlayerId = u16;

/// A cell of the grid; (0, 0) is in the north-west.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) x: u8,
    pub(crate) y: u8,
}

/// Where a player goes, a step at a time, until it is told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Heading {
    #[default]
    Still,
    North,
    East,
    South,
    West,
}

impl Heading {
    /// All of them; the place is the number in messages.
    pub(crate) const ALL: [Self; 5] = [
        Self::Still,
        Self::North,
        Self::East,
        Self::South,
        Self::West,
    ];
}

/// A client tells where its player goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steer {
    pub(crate) heading: Heading,
    /// Comes back in [`Seen::input`], so that the client knows when it took effect.
    pub(crate) input: u8,
}

impl Steer {
    pub(crate) fn encode(self) -> [u8; 2] {
        [self.heading as u8, self.input]
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let &[heading, input] = payload else {
            return None;
        };
        let heading = *Heading::ALL.get(usize::from(heading))?;
        Some(Self { heading, input })
    }
}

/// The player of a client that has come in, or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) id: PlayerId,
    pub(crate) at: Position,
    pub(crate) score: u32,
    /// True if the player was kept while its client was away.
    pub(crate) resumed: bool,
}

impl Welcome {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend([self.at.x, self.at.y]);
        bytes.extend(self.score.to_le_bytes());
        bytes.push(self.resumed.into());
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let welcome = Self {
            id: reader.u16()?,
            at: reader.position()?,
            score: reader.u32()?,
            resumed: reader.u8()? == 1,
        };
        reader.0.is_empty().then_some(welcome)
    }
}

/// A player as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: PlayerId,
    /// The first letter of its name.
    pub(crate) letter: u8,
    pub(crate) at: Position,
    /// Its client has lost the connection.
    pub(crate) away: bool,
    /// The last input that took effect.
    pub(crate) input: u8,
}

/// All that is to be seen from an area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) tick: u32,
    pub(crate) players: Vec<Seen>,
    pub(crate) coins: Vec<Position>,
}

impl View {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = u16::try_from(self.players.len()).unwrap_or(u16::MAX);
        let players = &self.players[..count.into()];
        let mut bytes = Vec::with_capacity(6 + 7 * players.len() + 2 * self.coins.len());
        bytes.extend(self.tick.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        for seen in players {
            bytes.extend(seen.id.to_le_bytes());
            let away = seen.away.into();
            bytes.extend([seen.letter, seen.at.x, seen.at.y, away, seen.input]);
        }
        for coin in &self.coins {
            bytes.extend([coin.x, coin.y]);
        }
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let (tick, count) = (reader.u32()?, reader.u16()?);
        let mut view = Self {
            tick,
            ..Self::default()
        };
        for _ in 0..count {
            view.players.push(Seen {
                id: reader.u16()?,
                letter: reader.u8()?,
                at: reader.position()?,
                away: reader.u8()? == 1,
                input: reader.u8()?,
            });
        }
        while !reader.0.is_empty() {
            view.coins.push(reader.position()?);
        }
        Some(view)
    }
}

/// Who has how many coins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standings {
    /// That of who asked.
    pub(crate) own: u32,
    /// The best, the first one first: score and name.
    pub(crate) best: Vec<(u32, String)>,
}

impl Standings {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.own.to_le_bytes().to_vec();
        for (score, name) in &self.best {
            let len = u8::try_from(name.len()).unwrap_or(0);
            bytes.extend(score.to_le_bytes());
            bytes.push(len);
            bytes.extend(&name.as_bytes()[..len.into()]);
        }
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let own = reader.u32()?;
        let mut best = Vec::new();
        while !reader.0.is_empty() {
            let (score, len) = (reader.u32()?, reader.u8()?);
            let name = std::str::from_utf8(reader.bytes(len.into())?).ok()?;
            best.push((score, name.to_owned()));
        }
        Some(Self { own, best })
    }
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn position(&mut self) -> Option<Position> {
        self.array().map(|[x, y]| Position { x, y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Position = Position { x: 3, y: 60 };

    fn view() -> View {
        let seen = Seen {
            id: 0x0201,
            letter: b'a',
            at: HERE,
            away: true,
            input: 9,
        };
        View {
            tick: 7,
            players: vec![seen; 2],
            coins: vec![HERE],
        }
    }

    #[test]
    fn messages_look_as_the_table_says() {
        let steer = Steer {
            heading: Heading::West,
            input: 255,
        };
        assert_eq!(steer.encode(), [4, 255]);
        let seen = [1, 2, b'a', 3, 60, 1, 9];
        let bytes = [&[7, 0, 0, 0, 2, 0][..], &seen, &seen, &[3, 60]].concat();
        assert_eq!(view().encode(), bytes);
        let welcome = Welcome {
            id: 5,
            at: HERE,
            score: 258,
            resumed: true,
        };
        assert_eq!(welcome.encode(), [5, 0, 3, 60, 2, 1, 0, 0, 1]);
        let standings = Standings {
            own: 1,
            best: vec![(2, "ann".to_owned())],
        };
        let bytes = standings.encode();
        assert_eq!(bytes, [&[1, 0, 0, 0, 2, 0, 0, 0, 3][..], b"ann"].concat());
    }

    #[test]
    fn what_was_encoded_decodes_and_what_was_cut_does_not() {
        for heading in Heading::ALL {
            let steer = Steer { heading, input: 1 };
            assert_eq!(Steer::decode(&steer.encode()), Some(steer));
        }
        assert_eq!(Steer::decode(&[5, 0]), None);
        assert_eq!(View::decode(&view().encode()), Some(view()));
        let welcome = Welcome {
            id: 5,
            at: HERE,
            score: 258,
            resumed: false,
        };
        assert_eq!(Welcome::decode(&welcome.encode()), Some(welcome));
        let standings = Standings {
            own: 4,
            best: vec![(2, "ann".to_owned()), (1, "bob".to_owned())],
        };
        let bytes = standings.encode();
        assert_eq!(Standings::decode(&bytes), Some(standings));
        // A view and standings may end where an entry ends, and only there.
        assert_eq!(View::decode(&view().encode()[..21]), None);
        assert_eq!(View::decode(&view().encode()[..10]), None);
        assert_eq!(Standings::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Welcome::decode(&welcome.encode()[..8]), None);
        assert_eq!(Welcome::decode(&[0; 10]), None);
    }
}
