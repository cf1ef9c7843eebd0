//! How clients are let in, before anything is measured.

use proscenium_engine::Context;

use super::{Client, Order, Report};
use crate::errno;
use crate::load::protocol::Protocol;

impl<P: Protocol> Client<P> {
    /// Has as many clients ask to be let in as may do so at once.
    pub(super) fn join_more(&mut self, cx: &mut Context<'_, Order>) {
        while self.joining < self.settings.connect_at_once
            && self.join_from < self.connections.len()
        {
            let at = self.join_from;
            self.join_from += 1;
            let connection = &mut self.connections[at];
            if !connection.alive {
                continue;
            }
            let Some(hello) = self.protocol.hello(at, &mut connection.state) else {
                continue;
            };
            connection.joining = true;
            self.joining += 1;
            // `Gone`: `on_disconnect` follows. Nothing else is queued yet.
            let _ = cx.send(connection.id, &hello);
        }
        if self.joining == 0 && self.join_from == self.connections.len() {
            self.tell(Report::Joined);
        }
    }

    pub(super) fn on_hello(
        &mut self,
        cx: &mut Context<'_, Order>,
        at: usize,
        result: Result<(), String>,
    ) {
        let connection = &mut self.connections[at];
        if !std::mem::take(&mut connection.joining) {
            return;
        }
        self.joining -= 1;
        match result {
            Ok(()) => {
                self.join.joined += 1;
                if let Some(fan) = &mut self.fan {
                    fan.on_joined(at);
                }
            }
            Err(name) => {
                self.join.failed += 1;
                errno::count(&mut self.errors, name);
            }
        }
        self.join_more(cx);
    }
}
