//! What API servers ask of Play servers, against one that answers by a script.

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::mpsc::channel;
use std::time::Duration;

use proscenium_nodelink::{Chain, ChainEntry, RequestOptions, RouteHeader};
use proscenium_play::system::{CreateStageReq, CreateStageRes, GetOrCreateStageRes};
use proscenium_play::{Content, ErrorCode, Proto};
use prost::Message;
use scripted::{PATIENCE, Seen, api, scripted, wait_until};

type Answer = Option<(u32, String, Vec<u8>)>;

fn ok(msg_id: &str, payload: impl Into<Vec<u8>>) -> Answer {
    Some((0, msg_id.to_owned(), payload.into()))
}

fn fails(code: u32) -> Answer {
    Some((code, String::new(), Vec::new()))
}

/// Stage ids choose the answer.
fn play(seen: &Seen) -> Answer {
    let created = |result| CreateStageRes {
        result,
        payload_id: "Map".to_owned(),
        payload: b"north".to_vec(),
    };
    match (seen.msg_id.as_str(), seen.stage_id) {
        ("CreateStageReq", 1) => ok("CreateStageRes", created(true).encode_to_vec()),
        ("CreateStageReq", 2) => fails(8),
        ("CreateStageReq", 3) => ok("CreateStageRes", created(false).encode_to_vec()),
        ("CreateStageReq", 4) => ok("CreateStageRes", *b"\x0a\xff"),
        ("CreateStageReq", 5) => ok("", ""),
        ("CreateStageReq", 6) => fails(70_000),
        ("GetOrCreateStageReq", id) => {
            let is_created = id == 1;
            let answer = GetOrCreateStageRes {
                result: true,
                is_created,
                ..Default::default()
            };
            ok("GetOrCreateStageRes", answer.encode_to_vec())
        }
        ("DestroyStageReq", 1) => ok("", ""),
        ("DestroyStageReq", 2) => fails(3),
        ("DestroyStageReq", 3) => fails(14),
        ("Score", _) => ok("ScoreIs", Proto(&42_u32).0.encode_to_vec()),
        ("Coded", _) => Some((1234, "Why".to_owned(), b"poor".to_vec())),
        _ => None,
    }
}

#[test]
fn stages_are_created_and_destroyed() {
    let server = api("api-1").start().unwrap();
    let (_play, arrived) = scripted("play-1", &server, play);
    let sender = server.sender();
    let create = |id| {
        let map = Content::new("Map", "south");
        sender.create_stage("play-1", "Match", id, map).wait()
    };
    let created = create(1).unwrap();
    assert!(created.is_new);
    assert_eq!(created.content, Some(Content::new("Map", "north")));
    let seen = arrived.recv_timeout(PATIENCE).unwrap();
    assert!(seen.is_system && seen.is_request && seen.chain.is_empty());
    assert_eq!((seen.stage_id, seen.from.as_str()), (1, "api-1"));
    let asked = CreateStageReq::decode(&seen.payload[..]).unwrap();
    assert_eq!(
        (asked.stage_type.as_str(), asked.payload_id.as_str()),
        ("Match", "Map")
    );
    assert_eq!(asked.payload, b"south");

    assert_eq!(create(2), Err(ErrorCode::STAGE_ALREADY_EXISTS));
    assert_eq!(create(3), Err(ErrorCode::STAGE_CREATION_FAILED));
    assert_eq!(create(4), Err(ErrorCode::INVALID_MESSAGE));
    // An empty answer says `result: false`.
    assert_eq!(create(5), Err(ErrorCode::STAGE_CREATION_FAILED));
    assert_eq!(create(6), Err(ErrorCode::INTERNAL_ERROR));

    let get_or_create = |id| {
        let asking = sender.get_or_create_stage("play-1", "Match", id, Content::default());
        asking.wait().unwrap()
    };
    assert!(get_or_create(1).is_new);
    let there = get_or_create(2);
    assert_eq!((there.is_new, there.content), (false, None));

    assert_eq!(sender.destroy_stage("play-1", 1).wait(), Ok(true));
    assert_eq!(sender.destroy_stage("play-1", 2).wait(), Ok(false));
    let refused = sender.destroy_stage("play-1", 3).wait();
    assert_eq!(refused, Err(ErrorCode::SYSTEM_ERROR));
}

#[test]
fn stages_are_sent_and_asked() {
    let server = api("api-1").start().unwrap();
    let (_play, arrived) = scripted("play-1", &server, play);
    let sender = server.sender();
    sender.send_to_stage("play-1", 7, "Note", "text").unwrap();
    let seen = arrived.recv_timeout(PATIENCE).unwrap();
    assert!(!seen.is_system && !seen.is_request);
    assert_eq!((seen.stage_id, seen.msg_id.as_str()), (7, "Note"));
    assert_eq!(seen.payload, b"text");

    let score = sender
        .request_to_stage("play-1", 7, "Score", ())
        .decoded::<u32>();
    assert_eq!(score.wait(), Ok(42));
    let text = sender
        .request_to_stage("play-1", 7, "Score", ())
        .decoded::<String>();
    assert_eq!(text.wait(), Err(ErrorCode::INVALID_MESSAGE));
    let coded = sender.request_to_stage("play-1", 7, "Coded", ());
    assert_eq!(coded.wait(), Err(ErrorCode(1234)));

    let (told, answers) = channel();
    let also = told.clone();
    let call = move |answer| told.send(answer).unwrap();
    sender
        .request_to_stage_with("play-1", 7, "Coded", (), call)
        .unwrap();
    assert_eq!(
        answers.recv_timeout(PATIENCE).unwrap(),
        Err(ErrorCode(1234))
    );
    let call = move |answer| also.send(answer).unwrap();
    sender
        .request_to_api_with("play-1", "Score", (), call)
        .unwrap();
    let content = answers.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(
        (&*content.msg_id, content.decode::<u32>().unwrap()),
        ("ScoreIs", 42)
    );
}

#[test]
fn what_is_not_sent_says_so() {
    let server = api("api-1").start().unwrap();
    let (play, _arrived) = scripted("play-1", &server, play);
    let sender = server.sender();
    let never = |_| panic!("it was refused");
    for (to, msg_id, code) in [
        ("nobody", "Note", ErrorCode::SERVER_NOT_FOUND),
        ("", "Note", ErrorCode::SERVER_NOT_FOUND),
        ("play-1", "", ErrorCode::INVALID_MESSAGE),
    ] {
        assert_eq!(sender.send_to_stage(to, 1, msg_id, ()), Err(code));
        assert_eq!(sender.send_to_api(to, msg_id, ()), Err(code));
        assert_eq!(sender.request_to_stage(to, 1, msg_id, ()).wait(), Err(code));
        let asked = sender.request_to_stage_with(to, 1, msg_id, (), never);
        assert_eq!(asked, Err(code));
    }
    let long = vec![0; 64 << 20];
    let asked = sender.request_to_stage("play-1", 1, "Note", &long).wait();
    assert_eq!(asked, Err(ErrorCode::SYSTEM_ERROR));

    // No answer comes: the deadline, or the end of the other server, is one.
    let hasty = sender.within(Duration::from_millis(50));
    let late = hasty.request_to_stage("play-1", 1, "Silence", ()).wait();
    assert_eq!(late, Err(ErrorCode::REQUEST_TIMEOUT));
    let lost = sender.request_to_stage("play-1", 1, "Silence", ());
    drop(play);
    assert_eq!(lost.wait(), Err(ErrorCode::SERVER_NOT_FOUND));
}

#[test]
fn an_answer_with_an_error_may_have_a_payload() {
    let (told, answers) = channel();
    let told = std::sync::Mutex::new(told);
    let server = api("api-1").handle("Ask", move |cx, _| {
        let told = told.lock().unwrap().clone();
        async move {
            let coded = cx.request_to_stage("play-1", 7, "Coded", ());
            let _ = told.send(coded.whole().await?);
            Ok(())
        }
    });
    let server = server.start().unwrap();
    let (play, _) = scripted("play-1", &server, play);
    assert_eq!(scripted::ask(&play, "api-1", "Ask", "").0, 0);
    let reply = answers.recv_timeout(PATIENCE).unwrap();
    assert_eq!((reply.error_code, &reply.payload[..]), (1234, &b"poor"[..]));
}

/// Who waits for a handler waits for what it asks: the stages it asks are told.
#[test]
fn requests_of_a_handler_go_on_with_its_chain() {
    let server = api("api-1").handle("Ask", |cx, _| async move {
        cx.send_to_stage("play-1", 9, "Note", ())?;
        let answer = cx.request_to_stage("play-1", 9, "Score", ()).await?;
        Ok(answer)
    });
    let server = server.start().unwrap();
    let (play, arrived) = scripted("play-1", &server, play);
    let entries = [
        ChainEntry {
            nid: "play-1",
            stage: 5,
            invocation: 6,
            request: 7,
        },
        ChainEntry {
            nid: "play-2",
            stage: -8,
            ..Default::default()
        },
    ];
    let header = RouteHeader {
        msg_id: "Ask",
        chain: Chain::new(&entries),
        ..RouteHeader::default()
    };
    let options = RequestOptions::within(PATIENCE);
    let asked = play.handle().request("api-1", &header, "", options);
    assert_eq!(asked.wait().unwrap().msg_id, "ScoreIs");
    let note = arrived.recv_timeout(PATIENCE).unwrap();
    assert!(note.chain.is_empty(), "nobody waits for what is sent");
    let score = arrived.recv_timeout(PATIENCE).unwrap();
    let waiting = [("play-1".to_owned(), 5), ("play-2".to_owned(), -8)];
    assert_eq!(score.chain, waiting);
    wait_until("all is over", || server.stats().running == 0);
}
