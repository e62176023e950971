//! What `systemctl status` shows of the agent: one word, and where it is not well the worst reason and who else is not.

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
    let overall = health::overall(board).as_str().to_owned();
    let mut ill: Vec<_> = board.iter().filter(|(_, state)| state.level > Level::Healthy).collect();
    // Stable: of those that are as bad, the first on the board, so the control plane before the DHT.
    ill.sort_by_key(|(_, state)| std::cmp::Reverse(state.level));
    let Some(((component, state), others)) = ill.split_first() else { return overall };
    let also = others.iter().map(|(other, _)| format!("; also {}", other.as_str())).collect::<String>();
    format!("{overall}: {}: {}{also}", component.as_str(), state.message)
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
        health.degraded(Component::Dht, "no ring");
        assert_eq!(sentence(&health.board(), true), "degraded: control_plane: away; also dht");
        health.unhealthy(Component::Transfers, "no journal");
        assert_eq!(sentence(&health.board(), true), "unhealthy: transfers: no journal; also control_plane; also dht");
        assert!(sentence(&health.board(), false).contains("join"));
    }
}
