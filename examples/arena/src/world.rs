//! The rules of the game and nothing else: no sockets, no clock, no server. Tested as they are.
//!
//! Players walk on a grid and collect coins; one cell holds one player or one coin. The grid is cut
//! into areas. A player sees its own area and the eight around it, so that all who stand in one
//! area see the same: the server encodes that once for all of them.

use std::collections::BTreeMap;

use crate::messages::{Heading, PlayerId, Position, Seen, Standings, Steer, View, Welcome};

/// Cells from west to east.
pub(crate) const WIDTH: u8 = 128;
/// Cells from north to south.
pub(crate) const HEIGHT: u8 = 64;
/// Cells of an area. From anywhere one sees at least so far to each side.
pub(crate) const AREA: (u8, u8) = (16, 8);
/// Players that fit in; the grid stays empty enough to walk.
pub(crate) const PLAYERS_MAX: u16 = 1000;
const COINS: usize = 200;
/// A step takes so many ticks.
const STEP_TICKS: u32 = 2;
/// How many names the standings have.
const BEST: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Empty,
    Coin,
    Player(PlayerId),
}

#[derive(Debug)]
struct Player {
    name: String,
    at: Position,
    heading: Heading,
    input: u8,
    score: u32,
    away: bool,
}

/// One of the areas, by its column and row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Area {
    column: u8,
    row: u8,
}

/// A grid with its players and coins.
#[derive(Debug)]
pub(crate) struct World {
    cells: Vec<Cell>,
    players: BTreeMap<PlayerId, Player>,
    coins: usize,
    /// Areas in which something has changed since [`World::take_views`].
    changed: Vec<Area>,
    tick: u32,
    random: Random,
}

impl World {
    /// A world with coins and nobody in it.
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            cells: vec![Cell::Empty; usize::from(WIDTH) * usize::from(HEIGHT)],
            players: BTreeMap::new(),
            coins: 0,
            changed: Vec::new(),
            tick: 0,
            random: Random(seed),
        };
        world.lay_coins();
        world
    }

    /// A player comes in, somewhere; `None` if the world is full.
    pub(crate) fn enter(&mut self, name: &str) -> Option<PlayerId> {
        let id = (1..=PLAYERS_MAX).find(|id| !self.players.contains_key(id))?;
        let at = self.empty_cell()?;
        let player = Player {
            name: name.to_owned(),
            at,
            heading: Heading::Still,
            input: 0,
            score: 0,
            away: false,
        };
        self.players.insert(id, player);
        self.put(at, Cell::Player(id));
        Some(id)
    }

    /// A player leaves for good.
    pub(crate) fn leave(&mut self, id: PlayerId) {
        if let Some(player) = self.players.remove(&id) {
            self.put(player.at, Cell::Empty);
        }
    }

    /// A player's client has gone, or is back. Meanwhile the player stands still.
    pub(crate) fn set_away(&mut self, id: PlayerId, away: bool) {
        if let Some(player) = self.players.get_mut(&id) {
            player.away = away;
            player.heading = Heading::Still;
            self.changed.push(Area::of(player.at));
        }
    }

    /// A player turns; it walks with the next steps.
    pub(crate) fn steer(&mut self, id: PlayerId, steer: Steer) {
        if let Some(player) = self.players.get_mut(&id) {
            player.heading = steer.heading;
            player.input = steer.input;
            self.changed.push(Area::of(player.at)); // others see the input, and its own client
        }
    }

    /// Time goes on by one tick.
    pub(crate) fn step(&mut self) {
        self.tick = self.tick.wrapping_add(1);
        if !self.tick.is_multiple_of(STEP_TICKS) {
            return;
        }
        let walking = self.players.iter();
        let walking = walking.filter(|(_, player)| player.heading != Heading::Still);
        let steps: Vec<_> = walking
            .filter_map(|(&id, player)| Some((id, next(player.at, player.heading)?)))
            .collect();
        for (id, to) in steps {
            self.walk(id, to);
        }
        self.lay_coins();
    }

    /// Who walks into somebody stays where it is.
    fn walk(&mut self, id: PlayerId, to: Position) {
        let cell = self.cell(to);
        let Some(player) = self.players.get_mut(&id) else {
            return;
        };
        let from = match cell {
            Cell::Player(_) => return,
            Cell::Coin => {
                player.score += 1;
                self.coins -= 1;
                std::mem::replace(&mut player.at, to)
            }
            Cell::Empty => std::mem::replace(&mut player.at, to),
        };
        self.put(from, Cell::Empty);
        self.put(to, Cell::Player(id));
    }

    /// What a client is told when it comes or comes back.
    pub(crate) fn welcome(&self, id: PlayerId, resumed: bool) -> Option<Welcome> {
        let player = self.players.get(&id)?;
        Some(Welcome {
            id,
            at: player.at,
            score: player.score,
            resumed,
        })
    }

    /// The best, and the score of one player.
    pub(crate) fn standings(&self, id: PlayerId) -> Standings {
        let all = self.players.values();
        let mut best: Vec<_> = all.map(|one| (one.score, one.name.clone())).collect();
        best.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        best.truncate(BEST);
        let own = self.players.get(&id).map_or(0, |player| player.score);
        Standings { own, best }
    }

    /// For each area with players from which something new is to be seen: who stands there, and
    /// what they see. What was told is not told again.
    pub(crate) fn take_views(&mut self) -> Vec<(Vec<PlayerId>, View)> {
        let mut news: Vec<Area> = std::mem::take(&mut self.changed);
        news.sort_unstable();
        news.dedup();
        let mut areas: Vec<Area> = news.iter().flat_map(|area| area.around()).collect();
        areas.sort_unstable();
        areas.dedup();
        let with_watchers = areas.into_iter().filter_map(|area| {
            let watchers = self.players_in(area);
            (!watchers.is_empty()).then(|| (watchers, self.view(area)))
        });
        with_watchers.collect()
    }

    fn players_in(&self, area: Area) -> Vec<PlayerId> {
        let cells = area.cells().map(|at| self.cell(at));
        cells
            .filter_map(|cell| match cell {
                Cell::Player(id) => Some(id),
                _ => None,
            })
            .collect()
    }

    fn view(&self, area: Area) -> View {
        let mut view = View {
            tick: self.tick,
            ..View::default()
        };
        for at in area.around().flat_map(Area::cells) {
            match self.cell(at) {
                Cell::Empty => {}
                Cell::Coin => view.coins.push(at),
                Cell::Player(id) => view.players.extend(self.seen(id)),
            }
        }
        view
    }

    fn seen(&self, id: PlayerId) -> Option<Seen> {
        let player = self.players.get(&id)?;
        Some(Seen {
            id,
            letter: player.name.bytes().next().unwrap_or(b'?'),
            at: player.at,
            away: player.away,
            input: player.input,
        })
    }

    fn cell(&self, at: Position) -> Cell {
        self.cells[index(at)]
    }

    fn put(&mut self, at: Position, cell: Cell) {
        self.cells[index(at)] = cell;
        self.changed.push(Area::of(at));
    }

    fn lay_coins(&mut self) {
        while self.coins < COINS
            && let Some(at) = self.empty_cell()
        {
            self.coins += 1;
            self.put(at, Cell::Coin);
        }
    }

    /// The first empty cell from a random one on.
    fn empty_cell(&mut self) -> Option<Position> {
        let len = self.cells.len();
        let from = self.random.below(len);
        let places = (from..len).chain(0..from);
        let mut empty = places.filter(|&place| self.cells[place] == Cell::Empty);
        let place = empty.next()?;
        let width = usize::from(WIDTH);
        Some(Position {
            x: (place % width) as u8,
            y: (place / width) as u8,
        })
    }
}

fn index(at: Position) -> usize {
    usize::from(at.y) * usize::from(WIDTH) + usize::from(at.x)
}

/// The cell beside; `None` at the edge of the grid.
pub(crate) fn next(at: Position, heading: Heading) -> Option<Position> {
    let Position { x, y } = at;
    let (x, y) = match heading {
        Heading::Still => (x, y),
        Heading::North => (x, y.checked_sub(1)?),
        Heading::East => (x + 1, y),
        Heading::South => (x, y + 1),
        Heading::West => (x.checked_sub(1)?, y),
    };
    (x < WIDTH && y < HEIGHT).then_some(Position { x, y })
}

impl Area {
    fn of(at: Position) -> Self {
        Self {
            column: at.x / AREA.0,
            row: at.y / AREA.1,
        }
    }

    /// This one and those beside it: what is seen from here, and from where this one is seen.
    fn around(self) -> impl Iterator<Item = Self> {
        let columns = self.column.saturating_sub(1)..=(self.column + 1).min(WIDTH / AREA.0 - 1);
        let rows = self.row.saturating_sub(1)..=(self.row + 1).min(HEIGHT / AREA.1 - 1);
        rows.flat_map(move |row| columns.clone().map(move |column| Self { column, row }))
    }

    fn cells(self) -> impl Iterator<Item = Position> {
        let (left, top) = (self.column * AREA.0, self.row * AREA.1);
        (top..top + AREA.1).flat_map(move |y| (left..left + AREA.0).map(move |x| Position { x, y }))
    }
}

/// SplitMix64: numbers that are random enough for a game, the same ones for the same seed.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world without coins, and players where the test wants them.
    fn empty(players: &[(u8, u8)]) -> World {
        let mut world = World::new(1);
        world.cells.fill(Cell::Empty);
        world.coins = COINS; // none are laid
        for (n, &(x, y)) in players.iter().enumerate() {
            let id = world.enter(&format!("p{n}")).expect("there is room");
            let to = Position { x, y };
            let player = world.players.get_mut(&id).expect("it has entered");
            let from = std::mem::replace(&mut player.at, to);
            world.put(from, Cell::Empty);
            world.put(to, Cell::Player(id));
        }
        world.take_views();
        world
    }

    fn steer(world: &mut World, id: PlayerId, heading: Heading) {
        world.steer(id, Steer { heading, input: 1 });
    }

    fn steps(world: &mut World, count: u32) {
        for _ in 0..count * STEP_TICKS {
            world.step();
        }
    }

    fn at(world: &World, id: PlayerId) -> (u8, u8) {
        let at = world.players[&id].at;
        (at.x, at.y)
    }

    #[test]
    fn players_walk_until_the_edge_or_somebody() {
        let mut world = empty(&[(1, 5), (1, 0), (3, 5)]);
        steer(&mut world, 1, Heading::West);
        steer(&mut world, 2, Heading::North);
        steps(&mut world, 3);
        assert_eq!((at(&world, 1), at(&world, 2)), ((0, 5), (1, 0)));
        steer(&mut world, 1, Heading::East);
        steps(&mut world, 9);
        assert_eq!((at(&world, 1), at(&world, 3)), ((2, 5), (3, 5)));
        world.leave(3);
        steps(&mut world, 1);
        assert_eq!(at(&world, 1), (3, 5));
        steer(&mut world, 1, Heading::South);
        steps(&mut world, 100);
        assert_eq!(at(&world, 1), (3, HEIGHT - 1));
    }

    #[test]
    fn a_coin_counts_and_another_one_is_laid() {
        let mut world = empty(&[(1, 5), (9, 9)]);
        world.put(Position { x: 3, y: 5 }, Cell::Coin);
        steer(&mut world, 1, Heading::East);
        steps(&mut world, 4);
        let standings = world.standings(2);
        assert_eq!(standings.own, 0);
        assert_eq!(standings.best, [(1, "p0".to_owned()), (0, "p1".to_owned())]);
        let coins = world.cells.iter().filter(|&&cell| cell == Cell::Coin);
        assert_eq!(coins.count(), 1);
    }

    #[test]
    fn who_is_away_stands_still_and_goes_on_from_there() {
        let mut world = empty(&[(1, 5)]);
        steer(&mut world, 1, Heading::East);
        steps(&mut world, 2);
        world.set_away(1, true);
        steps(&mut world, 5);
        let views = world.take_views();
        assert!(views[0].1.players[0].away);
        let welcome = world.welcome(1, true).expect("it is kept");
        assert_eq!(welcome.at, Position { x: 3, y: 5 });
        world.set_away(1, false);
        steer(&mut world, 1, Heading::East);
        steps(&mut world, 1);
        assert_eq!(at(&world, 1), (4, 5));
    }

    #[test]
    fn only_those_who_see_each_other_are_told() {
        // 1 and 2 share an area, 3 is in the one beside, 4 is two areas away.
        let mut world = empty(&[(0, 0), (15, 7), (16, 0), (32, 0)]);
        assert!(world.take_views().is_empty());
        steer(&mut world, 1, Heading::South);
        steps(&mut world, 1);
        let views = world.take_views();
        let watchers: Vec<_> = views.iter().map(|(watchers, _)| watchers.clone()).collect();
        assert_eq!(watchers, [vec![1, 2], vec![3]]);
        let seen = |view: &View| view.players.iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(seen(&views[0].1), [1, 2, 3]);
        assert_eq!(seen(&views[1].1), [1, 2, 3, 4]);
        assert!(world.take_views().is_empty());
    }

    #[test]
    fn a_world_fills_up_and_ids_are_used_again() {
        let mut world = World::new(7);
        for id in 1..=PLAYERS_MAX {
            assert_eq!(world.enter("x"), Some(id));
        }
        assert_eq!(world.enter("y"), None);
        world.leave(77);
        assert_eq!(world.enter("z"), Some(77));
        let coins = world.cells.iter().filter(|&&cell| cell == Cell::Coin);
        assert_eq!(coins.count(), COINS);
    }
}
