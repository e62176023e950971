//! Which part of the program a line comes from.

/// The component of an event that does not name one: the last part of the crate's path (`dataplane_amst` is `amst`), or the
/// crate's name where it is not ours.
pub(crate) fn of_target(target: &str) -> &str {
    let crate_name = target.split("::").next().unwrap_or(target);
    let ours = ["dataplane_", "control_plane_", "foundation_", "proto_"];
    ours.iter().find_map(|prefix| crate_name.strip_prefix(prefix)).unwrap_or(crate_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_says_the_component() {
        assert_eq!(of_target("dataplane_amst::session"), "amst");
        assert_eq!(of_target("control_plane_store"), "store");
        assert_eq!(of_target("dataplane_local_store::rows"), "local_store");
        assert_eq!(of_target("sqlx::query"), "sqlx");
    }
}
