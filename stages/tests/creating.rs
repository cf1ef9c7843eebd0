//! How stages come into being: once, on their shard, or not at all.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{
    CreateError, Cx, OnPanic, Reply, Stage, StageRef, StageType, Stages, TellError, jump_hash,
};
use support::{PATIENCE, eventually, run_all};

/// Says where it is, and makes others.
struct Room {
    id: u64,
    _counted: Counted,
}

/// Counts how many of something exist.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Msg {
    Where(Reply<(u64, usize, Option<u64>)>),
    /// Wants rooms, all at once.
    Want(Vec<u64>, Reply<Vec<StageRef<Room>>>),
    Panic,
}

impl Stage for Room {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Where(reply) => drop(reply.send((self.id, cx.shard(), cx.id()))),
            Msg::Want(ids, reply) => {
                let wanted: Vec<_> = ids.iter().map(|&id| cx.get_or_create::<Self>(id)).collect();
                let mut rooms = Vec::new();
                for wanted in wanted {
                    rooms.push(wanted.await.unwrap());
                }
                let _ = reply.send(rooms);
            }
            Msg::Panic => std::panic::resume_unwind(Box::new("planned")),
        }
    }
}

const IDS: u64 = 64;

#[test]
fn get_or_create_makes_each_stage_once_for_whoever_asks_from_wherever() {
    let rounds = if run_all() { 200 } else { 10 };
    for _ in 0..rounds {
        let made: Arc<Vec<AtomicU64>> = Arc::new((0..IDS).map(|_| AtomicU64::new(0)).collect());
        let (count, of) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&made));
        let alive = Arc::clone(&count);
        let rooms = StageType::new("room").factory(move |id| {
            if let Some(made) = of.get(id as usize) {
                made.fetch_add(1, Ordering::SeqCst);
            }
            std::thread::yield_now(); // for others to come in between
            Room {
                id,
                _counted: Counted::new(&alive),
            }
        });
        let stages = Stages::builder().register(rooms).build();
        let engine = stages.start(Engine::builder().shards(3)).unwrap();
        // From stages of each shard and from threads, at the same time, in different orders.
        let askers: Vec<_> = (1000..1012)
            .map(|id| stages.get_or_create::<Room>(id).wait(PATIENCE).unwrap())
            .collect();
        let orders = |n: u64| (0..IDS).map(move |id| (id * 37 + n * 11) % IDS);
        let by_stages: Vec<_> = (0..)
            .zip(&askers)
            .map(|(n, asker)| asker.ask(|reply| Msg::Want(orders(n).collect(), reply)))
            .collect();
        let mut all: Vec<Vec<(u64, StageRef<Room>)>> = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|n| {
                    let stages = &stages;
                    scope.spawn(move || {
                        orders(n)
                            .map(|id| (id, stages.get_or_create(id).wait(PATIENCE).unwrap()))
                            .collect()
                    })
                })
                .collect();
            all.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        });
        for (n, answer) in (0..).zip(by_stages) {
            all.push(orders(n).zip(answer.wait(PATIENCE).unwrap()).collect());
        }
        for (id, made) in made.iter().enumerate() {
            assert_eq!(made.load(Ordering::SeqCst), 1, "stage {id}");
        }
        for list in &mut all {
            list.sort_by_key(|(id, _)| *id);
        }
        assert!(all.iter().all(|list| *list == all[0]), "one address each");
        for &(id, room) in &all[0] {
            let place = room.ask(Msg::Where).wait(PATIENCE).unwrap();
            assert_eq!(place, (id, jump_hash(id, 3), Some(id)));
            assert_eq!(room.shard(), jump_hash(id, 3));
        }
        assert!(engine.shutdown(PATIENCE).is_clean());
        assert_eq!(count.load(Ordering::SeqCst), 0, "every state is dropped");
    }
}

/// Rooms of which some cannot be made.
fn fragile(failing: &Arc<AtomicUsize>) -> StageType<Room> {
    let failing = Arc::clone(failing);
    StageType::new("room")
        .factory(move |id| {
            if id >= failing.load(Ordering::SeqCst) as u64 {
                std::panic::resume_unwind(Box::new("planned"));
            }
            Room {
                id,
                _counted: Counted::new(&Arc::default()),
            }
        })
        .placement(|id, shards| id as usize % shards)
}

#[test]
fn a_factory_that_panics_is_an_error_of_that_call_only() {
    let failing = Arc::new(AtomicUsize::new(10));
    let stages = Stages::builder().register(fragile(&failing)).build();
    let engine = stages.start(Engine::builder().shards(2)).unwrap();
    for id in [10, 11, 12] {
        let made = stages.get_or_create::<Room>(id).wait(PATIENCE);
        assert_eq!(made, Err(CreateError::Panicked));
        assert_eq!(stages.get::<Room>(id).wait(PATIENCE), Ok(None));
    }
    for shard in 0..2 {
        let spawned = stages.spawn_on::<Room>(shard, || {
            std::panic::resume_unwind(Box::new("planned"));
        });
        assert_eq!(spawned.wait(PATIENCE), Err(CreateError::Panicked));
    }
    let room = stages.get_or_create::<Room>(3).wait(PATIENCE).unwrap();
    assert_eq!(room.ask(Msg::Where).wait(PATIENCE), Ok((3, 1, Some(3))));
    failing.store(20, Ordering::SeqCst);
    let room = stages.get_or_create::<Room>(11).wait(PATIENCE).unwrap();
    assert_eq!(room.ask(Msg::Where).wait(PATIENCE), Ok((11, 1, Some(11))));
    assert_eq!(stages.get::<Room>(11).wait(PATIENCE), Ok(Some(room)));
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_restart_whose_factory_panics_is_tried_again() {
    let failing = Arc::new(AtomicUsize::new(10));
    let restart = OnPanic::Restart {
        first: Duration::from_millis(1),
        max: Duration::from_millis(1),
    };
    let rooms = fragile(&failing).on_panic(restart);
    let stages = Stages::builder().register(rooms).build();
    let engine = stages.start(Engine::builder()).unwrap();
    let room = stages.get_or_create::<Room>(3).wait(PATIENCE).unwrap();
    room.tell(Msg::Panic).unwrap();
    assert_eq!(room.ask(Msg::Where).wait(PATIENCE), Ok((3, 0, Some(3))));
    eventually("the restart is counted", || {
        (stages.total().restarts == 1).then_some(())
    });
    failing.store(0, Ordering::SeqCst);
    room.tell(Msg::Panic).unwrap();
    let answer = room.ask(Msg::Where); // waits in the backlog
    eventually("the factory panics", || {
        (stages.total().panics >= 5).then_some(())
    });
    failing.store(10, Ordering::SeqCst);
    assert_eq!(answer.wait(PATIENCE), Ok((3, 0, Some(3))));
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn what_cannot_be_made_says_why() {
    struct Unknown;
    impl Stage for Unknown {
        type Msg = ();
        async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}
    }
    let rooms = StageType::<Room>::new("room").stages_max(2);
    let stages = Stages::builder().register(rooms).build();
    let early = stages.spawn_on(0, || Unknown).wait(PATIENCE);
    assert_eq!(early.unwrap_err(), CreateError::Stopped);
    let engine = stages.start(Engine::builder()).unwrap();
    let unknown = stages.get_or_create::<Unknown>(1).wait(PATIENCE);
    assert!(matches!(unknown, Err(CreateError::UnknownType(name)) if name.contains("Unknown")));
    let made = stages.get_or_create::<Room>(1).wait(PATIENCE);
    assert_eq!(made, Err(CreateError::NoFactory("room")));
    let room = |id| Room {
        id,
        _counted: Counted::new(&Arc::default()),
    };
    let rooms: Vec<_> = (0..3)
        .map(|id| stages.spawn_on(0, move || room(id)).wait(PATIENCE))
        .collect();
    assert!(rooms[0].is_ok() && rooms[1].is_ok());
    assert_eq!(rooms[2], Err(CreateError::TooMany(2)));
    let _ = stages.stop(*rooms[0].as_ref().unwrap());
    eventually("there is room again", || {
        stages.spawn_on(0, move || room(3)).wait(PATIENCE).ok()
    });
    let nowhere = stages.spawn_on(7, move || room(4)).wait(PATIENCE);
    assert_eq!(nowhere, Err(CreateError::Stopped));
    assert!(engine.shutdown(PATIENCE).is_clean());
    let late = stages.spawn_on(0, move || room(5)).wait(PATIENCE);
    assert_eq!(late, Err(CreateError::Stopped));
}

#[test]
fn a_stage_that_ends_and_is_wanted_again_is_never_there_twice() {
    let (count, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let (alive, makes) = (Arc::clone(&count), Arc::clone(&made));
    let rooms = StageType::new("room").factory(move |id| {
        makes.fetch_add(1, Ordering::SeqCst);
        assert_eq!(alive.load(Ordering::SeqCst), 0, "the one before lives");
        Room {
            id,
            _counted: Counted::new(&alive),
        }
    });
    let stages = Stages::builder()
        .register(rooms)
        .request_deadline(PATIENCE)
        .build();
    let engine = stages.start(Engine::builder().shards(2)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let stages = &stages;
            scope.spawn(move || {
                for round in 0..300 {
                    let room = stages.get_or_create::<Room>(1).wait(PATIENCE).unwrap();
                    let _ = match (thread + round) % 3 {
                        0 => stages.stop(room),
                        1 => stages.destroy(room),
                        _ => room.tell(Msg::Panic).map_err(|_| TellError::Gone(())),
                    };
                }
            });
        }
    });
    assert!(made.load(Ordering::SeqCst) > 1);
    assert!(engine.shutdown(PATIENCE).is_clean());
    assert_eq!(count.load(Ordering::SeqCst), 0);
}
