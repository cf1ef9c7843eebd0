//! Call chains: which requests are refused as a cycle, and which are not.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::time::Duration;

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{Cx, Reply, RequestError, StageRef};
use scripted::{MS, Node, SECOND, Script, Sim, answer, both, either, script};

/// Three nodes: on shards of their own, or on one.
const IDS: [u64; 3] = [1, 101, 201];

type Answer = Result<u64, RequestError>;

fn trio(shards: usize) -> (Sim, [StageRef<Node>; 3]) {
    let mut sim = Sim::new(shards);
    let nodes = IDS.map(|id| sim.node(id));
    (sim, nodes)
}

fn on_one_shard_and_on_three(test: impl Fn(Sim, [StageRef<Node>; 3])) {
    for shards in [1, 3] {
        let (sim, nodes) = trio(shards);
        test(sim, nodes);
    }
}

fn cycle(ids: &[u64]) -> RequestError {
    RequestError::Cycle(ids.iter().map(|id| format!("node#{id}")).collect())
}

/// Asks the nodes of `path` one after the other, each asking the next, and logs how the last
/// request went.
fn ask_along(path: Vec<StageRef<Node>>) -> Script {
    script(move |node, cx| {
        Box::pin(async move {
            let Some((&next, rest)) = path.split_first() else {
                return;
            };
            let rest = rest.to_vec();
            let last = rest.is_empty();
            let asked: Answer = cx
                .request(next, |reply| {
                    script(move |node, cx| {
                        let inner = ask_along(rest);
                        Box::pin(async move {
                            inner.play(node, cx).await;
                            let _ = reply.send(node.id);
                        })
                    })
                })
                .await;
            if last {
                node.log.add(format!("{asked:?}"));
            }
        })
    })
}

#[test]
fn a_cycle_is_refused_at_once_and_named() {
    on_one_shard_and_on_three(|mut sim, [a, b, c]| {
        for (path, names) in [
            (vec![a], vec![1, 1]),
            (vec![b, a], vec![101, 1, 101]),
            (vec![b, c, a], vec![201, 1, 101, 201]),
            (vec![b, c, b], vec![201, 101, 201]),
        ] {
            sim.log.take();
            let began = sim.net.now();
            a.tell(ask_along(path)).unwrap();
            sim.run(100 * MS);
            let expected: Answer = Err(cycle(&names));
            assert_eq!(sim.log.take(), [format!("{expected:?}")]);
            assert!(sim.net.now().since(began) < SECOND, "not by the deadline");
        }
        assert_eq!(sim.stages.total().cycles, 4);
        // Nobody is left waiting.
        for node in [a, b, c] {
            assert!(
                sim.does(node, |node, _| Box::pin(async { node.id }))
                    .is_some()
            );
        }
    });
}

#[test]
fn requests_nest_sixteen_deep() {
    for shards in [1, 2] {
        let mut sim = Sim::new(shards);
        // Neighbours on different shards.
        let ids = (0..18).map(|n| n + 100 * (n % 2));
        let nodes: Vec<_> = ids.map(|id| sim.node(id)).collect();
        nodes[0].tell(ask_along(nodes[1..=16].to_vec())).unwrap();
        sim.run(SECOND);
        let reached = 16;
        assert_eq!(sim.log.take().pop(), Some(format!("Ok({reached})")));
        nodes[0].tell(ask_along(nodes[1..].to_vec())).unwrap();
        sim.run(SECOND);
        let refused: Answer = Err(RequestError::TooDeep(16));
        assert_eq!(sim.log.take(), [format!("{refused:?}")]);
    }
}

/// `b` waits 50 ms, asks `a`, logs the answer, and answers.
fn asks_back_later(a: StageRef<Node>, reply: proscenium_stages::Reply<u64>) -> Script {
    script(move |node, cx| {
        Box::pin(async move {
            cx.sleep(50 * MS).await;
            let back: Answer = cx.request(a, |reply| answer(reply, 7)).await;
            node.log.add(format!("asked back: {back:?}"));
            let _ = reply.send(node.id);
        })
    })
}

#[test]
fn a_request_whose_caller_has_given_up_is_no_link_of_a_cycle() {
    on_one_shard_and_on_three(|mut sim, [a, b, _]| {
        for raced in [false, true] {
            sim.log.take();
            a.tell(script(move |node, cx| {
                Box::pin(async move {
                    let request = cx.request(b, |reply| asks_back_later(a, reply));
                    if raced {
                        let first = either(request, cx.sleep(10 * MS)).await;
                        assert!(first.is_err(), "the sleep is first");
                    } else {
                        let answer = request.within(10 * MS).await;
                        assert_eq!(answer, Err(RequestError::Deadline(10 * MS)));
                    }
                    cx.sleep(100 * MS).await; // busy with something else
                    node.log.add("done");
                })
            }))
            .unwrap();
            sim.run(SECOND);
            assert_eq!(sim.log.take(), ["done", "asked back: Ok(7)"]);
        }
        assert_eq!(sim.stages.total().cycles, 0);
    });
}

#[test]
fn a_deadline_that_has_passed_counts_even_if_the_request_is_still_held() {
    on_one_shard_and_on_three(|mut sim, [a, b, _]| {
        a.tell(script(move |_, cx| {
            Box::pin(async move {
                let request = cx.request(b, |reply| asks_back_later(a, reply));
                let mut request = std::pin::pin!(request.within(10 * MS));
                assert!(request.as_mut().await.is_err());
                cx.sleep(100 * MS).await;
                let _held_until_here = request;
            })
        }))
        .unwrap();
        sim.run(SECOND);
        assert_eq!(sim.log.count("asked back: Ok(7)"), 1);
    });
}

#[test]
fn a_link_in_the_middle_that_gave_up_breaks_the_chain() {
    on_one_shard_and_on_three(|mut sim, [a, b, c]| {
        // a asks b, b asks c and gives up, c asks a: which is free when b answers.
        a.tell(script(move |node, cx| {
            Box::pin(async move {
                let answer: Answer = cx
                    .request(b, |reply| {
                        script(move |node, cx| {
                            Box::pin(async move {
                                let request = cx.request(c, |reply| asks_back_later(a, reply));
                                assert!(request.within(10 * MS).await.is_err());
                                cx.sleep(100 * MS).await;
                                let _ = reply.send(node.id);
                            })
                        })
                    })
                    .await;
                node.log.add(format!("{answer:?}"));
            })
        }))
        .unwrap();
        sim.run(SECOND);
        let log = sim.log.take();
        assert_eq!(log[log.len() - 2..], ["Ok(101)", "asked back: Ok(7)"]);
        assert_eq!(sim.stages.total().cycles, 0);
    });
}

#[test]
fn a_diamond_is_no_cycle() {
    for shards in [1, 4] {
        let mut sim = Sim::new(shards);
        let [a, b, c, d] = [1, 101, 201, 301].map(|id| sim.node(id));
        let ask_d = move |reply: proscenium_stages::Reply<Answer>| {
            script(move |_, cx| {
                Box::pin(async move {
                    cx.sleep(MS).await;
                    let slow = |reply| {
                        script(move |node, cx| {
                            Box::pin(async move {
                                cx.sleep(5 * MS).await;
                                let _ = proscenium_stages::Reply::send(reply, node.id);
                            })
                        })
                    };
                    let _ = reply.send(cx.request(d, slow).await);
                })
            })
        };
        let answers = sim.does(a, move |_, cx| {
            Box::pin(async move { both(cx.request(b, ask_d), cx.request(c, ask_d)).await })
        });
        assert_eq!(answers, Some((Ok(Ok(301)), Ok(Ok(301)))));
        assert_eq!(sim.stages.total().cycles, 0);
    }
}

#[test]
fn telling_who_asks_is_no_cycle_and_neither_is_asking_after_the_answer() {
    on_one_shard_and_on_three(|mut sim, [a, b, _]| {
        let answer_then_ask = move |reply: proscenium_stages::Reply<u64>| {
            script(move |node: &mut Node, cx| {
                Box::pin(async move {
                    cx.tell(
                        a,
                        script(|node, _| Box::pin(async { node.log.add("told") })),
                    )
                    .unwrap();
                    let _ = reply.send(node.id);
                    let back: Answer = cx.request(a, |reply| answer(reply, 7)).await;
                    node.log.add(format!("asked back: {back:?}"));
                })
            })
        };
        let asked = sim.does(a, move |_, cx| {
            Box::pin(async move {
                let answer = cx.request(b, answer_then_ask).await;
                cx.sleep(10 * MS).await;
                answer
            })
        });
        assert_eq!(asked, Some(Ok(101)));
        sim.run(SECOND);
        assert_eq!(sim.log.count("told"), 1);
        assert_eq!(sim.log.count("asked back: Ok(7)"), 1);
    });
}

/// All of them ask the next one at the same time, the last the first; returns the answers.
fn ask_in_a_ring(sim: &mut Sim, ring: &[StageRef<Node>]) -> Vec<Answer> {
    let until = sim.net.now() + SECOND;
    let nexts = ring.iter().cycle().skip(1);
    let asked: Vec<_> = ring
        .iter()
        .zip(nexts)
        .map(|(node, &next)| {
            node.ask(|reply| {
                script(move |_, cx| {
                    Box::pin(async move {
                        // Busy from before anybody asks.
                        cx.sleep(until.since(cx.now())).await;
                        let handled = |reply: proscenium_stages::Reply<u64>| {
                            script(move |node: &mut Node, _| {
                                node.log.add("handled");
                                Box::pin(async move { reply.send(7).unwrap() })
                            })
                        };
                        let _ = reply.send(cx.request(next, handled).await);
                    })
                })
            })
        })
        .collect();
    sim.run(2 * SECOND);
    let now = sim.net.now();
    let answers = asked.into_iter().map(|asked| sim.wait(asked).unwrap());
    let answers = answers.collect();
    assert!(
        sim.net.now().since(now) < SECOND,
        "answered before any deadline"
    );
    answers
}

#[test]
fn of_stages_that_ask_each_other_exactly_one_is_refused() {
    for seed in 0..100 {
        for (shards, size) in [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3)] {
            let net = if seed == 0 {
                SimNet::new(0, Faults::none())
            } else {
                SimNet::from_seed(seed)
            };
            let mut sim = Sim::with(net, shards, |nodes| nodes);
            let ring: Vec<_> = IDS[..size].iter().map(|&id| sim.node(id)).collect();
            for round in 0..3 {
                sim.log.take();
                let answers = ask_in_a_ring(&mut sim, &ring);
                assert_eq!(
                    sim.log.count("handled"),
                    size - 1,
                    "what was refused is not done"
                );
                let refused = answers
                    .iter()
                    .filter(|answer| matches!(answer, Err(RequestError::Cycle(_))));
                let answered = answers.iter().filter(|answer| **answer == Ok(7));
                assert_eq!(
                    (refused.count(), answered.count()),
                    (1, size - 1),
                    "seed {seed}, {shards} shards, round {round}: {answers:?}"
                );
            }
            assert_eq!(sim.stages.total().cycles, 3);
        }
    }
}

/// Asks every node of `targets` at the same time, each to do what `what` makes; the answers.
async fn ask_all(
    cx: &Cx<'_, Node>,
    targets: &[StageRef<Node>],
    what: impl Fn(Reply<u64>) -> Script,
) -> Vec<Answer> {
    let asked = targets.iter().map(|&target| cx.request(target, &what));
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for request in asked {
        answers.push(request.await);
    }
    answers
}

/// Asks all nodes of the first layer, each of which asks all of the second, and so on.
fn ask_layers(layers: Vec<Vec<StageRef<Node>>>, reply: Option<Reply<u64>>) -> Script {
    script(move |_, cx| {
        Box::pin(async move {
            match layers.split_first() {
                Some((next, rest)) => {
                    ask_all(cx, next, |reply| ask_layers(rest.to_vec(), Some(reply))).await;
                }
                None => cx.sleep(SECOND).await,
            }
            if let Some(reply) = reply {
                let _ = reply.send(0);
            }
        })
    })
}

#[test]
fn however_many_wait_for_many_others_a_request_is_followed_for_a_few_steps() {
    for shards in [1, 3] {
        let mut sim = Sim::new(shards);
        let layers: Vec<Vec<_>> = (0..4)
            .map(|layer| (0..8).map(|n| sim.node(layer * 100 + n)).collect())
            .collect();
        let asks = sim.node(50);
        for &node in &layers[0] {
            node.tell(ask_layers(layers[1..].to_vec(), None)).unwrap();
        }
        sim.run(100 * MS);
        let (before, first) = (sim.stages.total().probes, layers[0][0]);
        asks.tell(script(move |_, cx| {
            let request = cx.request(first, |reply| answer(reply, 7));
            Box::pin(async move {
                let _ = request.within(10 * MS).await;
            })
        }))
        .unwrap();
        sim.run(50 * MS);
        // Of 8 + 8 × 8 + 8 × 8 × 8 waits.
        let followed = sim.stages.total().probes - before;
        assert!((9..=32).contains(&followed), "{followed}");
    }
}

#[test]
fn of_many_requests_each_way_all_end_before_the_deadline() {
    for shards in [1, 2] {
        let (mut sim, [a, b, _]) = trio(shards);
        let until = sim.net.now() + SECOND;
        let asked: Vec<_> = [(a, b), (b, a)]
            .into_iter()
            .map(|(from, to)| {
                from.ask(|reply| {
                    script(move |_, cx| {
                        Box::pin(async move {
                            cx.sleep(until.since(cx.now())).await;
                            let answers = ask_all(cx, &[to; 16], |reply| answer(reply, 7)).await;
                            let _ = reply.send(answers);
                        })
                    })
                })
            })
            .collect();
        sim.run(2 * SECOND);
        let began = sim.net.now();
        let answers: Vec<Vec<Answer>> = asked
            .into_iter()
            .map(|asked| sim.wait(asked).unwrap())
            .collect();
        assert!(sim.net.now().since(began) < SECOND, "not by the deadline");
        let refused = |answers: &[Answer]| answers.iter().filter(|one| one.is_err()).count();
        let refused = [refused(&answers[0]), refused(&answers[1])];
        // Those of one of them suffice.
        assert!(refused.contains(&16), "{answers:?}");
        assert_eq!(
            sim.stages.total().cycles,
            (refused[0] + refused[1]) as u64,
            "{answers:?}"
        );
    }
}

#[test]
fn a_cycle_through_an_offload_is_refused() {
    on_one_shard_and_on_three(|mut sim, [a, b, _]| {
        let through = move |reply: proscenium_stages::Reply<Answer>| {
            script(move |_, cx| {
                Box::pin(async move {
                    assert_eq!(cx.offload_io(|| 1).await, Ok(1));
                    let _ = reply.send(cx.request(a, |reply| answer(reply, 7)).await);
                })
            })
        };
        let asked = sim.does(a, move |_, cx| {
            Box::pin(async move { cx.request(b, through).await })
        });
        assert_eq!(asked, Some(Ok(Err(cycle(&[101, 1, 101])))));
    });
}

#[test]
fn what_no_chain_shows_ends_with_the_deadline() {
    on_one_shard_and_on_three(|mut sim, [a, b, c]| {
        // b answers a when a has answered it, asked by a future that is not b's own doing.
        let detached = move |reply: proscenium_stages::Reply<u64>| {
            script(move |_, cx| {
                Box::pin(async move {
                    let back = a.ask(|reply| answer(reply, 7));
                    cx.detach(back, move |node, _, back| {
                        node.log.add(format!("asked back: {back:?}"));
                        assert!(!reply.is_wanted(), "a has given up");
                    })
                    .unwrap();
                })
            })
        };
        // b hands the token on to c, which asks a.
        let handed_on = move |reply: proscenium_stages::Reply<u64>| {
            script(move |_, cx| {
                Box::pin(async move { cx.tell(c, asks_back_later(a, reply)).unwrap() })
            })
        };
        for indirect in [false, true] {
            sim.log.take();
            let asked = sim.does(a, move |_, cx| {
                Box::pin(async move {
                    let request = if indirect {
                        cx.request(b, handed_on)
                    } else {
                        cx.request(b, detached)
                    };
                    request.within(SECOND).await
                })
            });
            assert_eq!(asked, Some(Err(RequestError::Deadline(SECOND))));
            sim.run(SECOND);
            assert_eq!(sim.log.take(), ["asked back: Ok(7)"]);
        }
        assert_eq!(sim.stages.total().cycles, 0);
    });
}

#[test]
fn a_token_that_was_handed_on_is_answered_by_who_has_it() {
    on_one_shard_and_on_three(|mut sim, [a, b, c]| {
        let handed_on = move |reply: proscenium_stages::Reply<u64>| {
            script(move |_, cx| {
                Box::pin(async move {
                    let later = script(move |node: &mut Node, cx| {
                        Box::pin(async move {
                            cx.sleep(20 * MS).await;
                            let _ = reply.send(node.id);
                        })
                    });
                    cx.tell(c, later).unwrap();
                })
            })
        };
        let asked = sim.does(a, move |_, cx| {
            Box::pin(async move { cx.request(b, handed_on).await })
        });
        assert_eq!(asked, Some(Ok(201)));
    });
}

#[test]
fn nobody_answers_within_the_deadline_of_the_system() {
    let mut sim = Sim::new(1);
    let (a, b) = (sim.node(1), sim.node(2));
    let began = sim.net.now();
    let asked = sim.does(a, move |_, cx| {
        Box::pin(async move {
            let kept = cx.request(b, |reply: proscenium_stages::Reply<u64>| {
                script(move |_, cx| {
                    Box::pin(async move {
                        cx.sleep(Duration::from_secs(60)).await;
                        drop(reply);
                    })
                })
            });
            kept.await
        })
    });
    let default = Duration::from_secs(30);
    assert_eq!(asked, Some(Err(RequestError::Deadline(default))));
    let took = sim.net.now().since(began);
    assert!(took >= default && took < default + 100 * MS, "{took:?}");
}
