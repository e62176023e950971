//! Configurations, as messages.

use control_plane_store::{
    configs::{Config, ConfigRevision},
    rollouts::{self, Answer, Rollout, RolloutState},
};
use proto_model::{config::Effective, to_timestamp};
use proto_rpc::v1::{self as rpc, config_rollout::State};

pub(super) fn config(config: Config, rollout: Option<Rollout>, not_in_force: Vec<String>) -> rpc::Config {
    rpc::Config {
        name: config.name.to_string(),
        revision: config.revision.value(),
        etag: config.etag().into(),
        document: config.document,
        create_time: Some(to_timestamp(config.create_time)),
        update_time: Some(to_timestamp(config.update_time)),
        rollout: rollout.map(self::rollout),
        not_in_force,
    }
}

pub(super) fn revision(revision: ConfigRevision) -> rpc::ConfigRevision {
    rpc::ConfigRevision {
        name: format!("{}/revisions/{}", revision.config, revision.revision),
        revision: revision.revision.value(),
        document: revision.document,
        author: revision.author,
        message: revision.message,
        create_time: Some(to_timestamp(revision.create_time)),
        rollout: revision.rollout.map(rollout),
    }
}

fn rollout(rollout: Rollout) -> rpc::ConfigRollout {
    let state = match rollout.state {
        RolloutState::Running => State::Running,
        RolloutState::Succeeded => State::Succeeded,
        RolloutState::Failed => State::Failed,
        RolloutState::Superseded => State::Superseded,
    };
    let mut message = rpc::ConfigRollout {
        name: rollouts::resource_name(rollout.id),
        revision: rollout.revision.value(),
        state: state.into(),
        create_time: Some(to_timestamp(rollout.create_time)),
        end_time: rollout.end_time.map(to_timestamp),
        ..rpc::ConfigRollout::default()
    };
    for target in rollout.targets {
        let node = target.node.resource_name();
        match target.answer {
            Answer::Applied => message.applied_nodes.push(node),
            Answer::Rejected => message.rejections.push(rpc::NodeRejection { node, errors: target.errors }),
            Answer::Pending => message.pending_nodes.push(node),
            Answer::Offline => message.offline_nodes.push(node),
        }
    }
    message
}

pub(super) fn effective(name: &str, effective: Effective) -> rpc::EffectiveConfig {
    rpc::EffectiveConfig {
        name: name.to_owned(),
        digest: effective.digest.into(),
        values: effective.values.into_iter().map(Into::into).collect(),
        applied_digest: String::new(),
        not_in_force: effective.not_in_force,
        document: effective.document,
    }
}
