//! The API server: what comes by HTTP, and what matches ask of it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proscenium::nodelink::directory::FileDirectory;
use proscenium::nodelink::{Nid, NodeOptions};
use proscenium::play::api::http::axum::extract::{Path, State};
use proscenium::play::api::http::axum::routing::{get, post};
use proscenium::play::api::http::axum::{Extension, Json, Router};
use proscenium::play::api::http::{Http, HttpError};
use proscenium::play::api::{ApiSender, ApiServer, Policy};
use proscenium::play::{Content, ErrorCode, Proto};
use serde_json::{Value, json};

use crate::messages::{self, API, Board, PLAY, Place, Player, Seat, Travel};

/// Which server has which match. With more than one API server this would stand in a database.
#[derive(Clone, Default)]
struct Matches {
    places: Arc<Mutex<BTreeMap<i64, String>>>,
    /// The last number that was given to one.
    last: Arc<AtomicI64>,
}

impl Matches {
    fn number(&self) -> i64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn add(&self, id: i64, server: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(id, server.to_owned());
    }

    fn find(&self, id: i64) -> Result<String, ErrorCode> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&id).cloned().ok_or(ErrorCode::STAGE_NOT_FOUND)
    }
}

/// Starts the server; it finds the others in the directory.
pub(crate) fn start(nid: &str, directory: FileDirectory) -> Result<ApiServer, Box<dyn Error>> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let matches = Matches::default();
    let router = Router::new()
        .route("/matches", post(create))
        .route("/matches/{id}", get(describe))
        .route("/matches/{id}/players/{name}", post(join))
        .layer(Extension(matches.clone()));
    // One would do to play; this demonstration wants two.
    let http =
        Http::new(any, router).ready_when(|sender| sender.node().candidates(PLAY).len() >= 2);
    let server = ApiServer::builder(NodeOptions::new(Nid::new(nid)?))
        .bind(any)
        .service(API)
        .directory(directory, Duration::from_secs(15))
        .handle_proto(messages::FIND, move |_cx, Travel { match_id }| {
            let place = matches.find(match_id);
            async move {
                let place = Place { server: place? };
                Ok(Content::new("Place", Proto(&place)))
            }
        })
        .http(http)
        .start()?;
    Ok(server)
}

/// `POST /matches`: a new match, on the Play servers in turns.
async fn create(
    State(sender): State<ApiSender>,
    Extension(matches): Extension<Matches>,
) -> Result<Json<Value>, HttpError> {
    let server = sender.choose(PLAY, Policy::RoundRobin)?;
    let id = matches.number();
    let created = sender.create_stage(&server, "match", id, Content::default());
    if let Err(code) = created.await {
        // Nobody knows whether it is there: an answer may be late, or lost. No match of that number
        // was ever told of, so it may go as well.
        let _ = sender.destroy_stage(&server, id).await;
        Err(code)?;
    }
    matches.add(id, &server);
    Ok(Json(json!({ "match": id, "server": server.as_str() })))
}

/// `POST /matches/7/players/ann`: a seat for ann.
async fn join(
    State(sender): State<ApiSender>,
    Extension(matches): Extension<Matches>,
    Path((id, name)): Path<(i64, String)>,
) -> Result<Json<Value>, HttpError> {
    let player = Player { name, points: 0 };
    let place = matches.find(id)?;
    let seat = sender.request_to_stage(&place, id, messages::EXPECT, Proto(&player));
    let Seat {
        address,
        match_id,
        ticket,
    } = seat.decoded().await?;
    // As text: not every reader of JSON has 64 bits for a number.
    let ticket = ticket.to_string();
    Ok(Json(
        json!({ "address": address, "match": match_id, "ticket": ticket }),
    ))
}

/// `GET /matches/7`: who plays there.
async fn describe(
    State(sender): State<ApiSender>,
    Extension(matches): Extension<Matches>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, HttpError> {
    let server = matches.find(id)?;
    let board = sender.request_to_stage(&server, id, messages::DESCRIBE, ());
    let board: Board = board.decoded().await?;
    let players: BTreeMap<_, _> = board
        .players
        .into_iter()
        .map(|player| (player.name, player.points))
        .collect();
    Ok(Json(
        json!({ "match": id, "server": server, "players": players }),
    ))
}
