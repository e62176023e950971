//! What `systemctl status` shows of the agent: one word, and the first reason where it is not well.

use std::{collections::BTreeMap, sync::Arc};

use foundation_runtime::{OnEnd, TaskGroup, service_manager};
use tokio::sync::watch;

use crate::{
    health::{self, Component, Health, Level, State},
    member::Member,
};

/// Says that the agent serves, and from then on how it is, on change; for who asked for it, also that it lives.
pub(crate) fn follow(health: &Health, member: watch::Receiver<Option<Arc<Member>>>, tasks: &TaskGroup) {
    service_manager::ready(&sentence(&health.board(), member.borrow().is_some()));
    service_manager::keep_alive(tasks);
    let (mut board, mut member, group) = (health.watch(), member, tasks.clone());
    tasks.spawn("service status", OnEnd::Expected, async move {
        let mut said = String::new();
        loop {
            let sentence = sentence(&board.borrow_and_update(), member.borrow_and_update().is_some());
            if sentence != said {
                service_manager::status(&sentence);
                said = sentence;
            }
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return },
                changed = member.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
        }
    });
}

/// The sentence for a board.
pub(crate) fn sentence(board: &BTreeMap<Component, State>, joined: bool) -> String {
    if !joined {
        return "This host has not joined a fleet yet: dwcp-agent join".to_owned();
    }
    let overall = health::overall(board).as_str();
    let worst = board.iter().max_by_key(|(_, state)| state.level).filter(|(_, state)| state.level > Level::Healthy);
    worst.map_or_else(
        || overall.to_owned(),
        |(component, state)| format!("{overall}: {}: {}", component.as_str(), state.message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_the_worst() {
        let health = Health::default();
        health.healthy(Component::Dht);
        assert_eq!(sentence(&health.board(), true), "healthy");
        health.degraded(Component::ControlPlane, "away");
        assert_eq!(sentence(&health.board(), true), "degraded: control_plane: away");
        assert!(sentence(&health.board(), false).contains("join"));
    }
}
