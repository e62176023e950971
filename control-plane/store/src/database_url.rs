//! The URL of the database, as the driver is told it: the driver would log a parameter that it does not know with its value, which
//! may be a password.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::Error;

/// The parameters that the driver knows.
const KNOWN: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// How to connect, by a URL; what is unknown in it has no effect, and is said without its value.
pub(crate) fn parse(url: &str) -> Result<PgConnectOptions, Error> {
    let (known, unknown) = divide(url);
    if unknown > 0 {
        tracing::warn!(
            component = "database",
            unknown,
            "The URL of the database has parameters that are not known; they have no effect"
        );
    }
    Ok(PgConnectOptions::from_str(&known)?)
}

/// The URL without parameters that are not known, and how many those are.
fn divide(url: &str) -> (String, usize) {
    let Some((place, parameters)) = url.split_once('?') else { return (url.to_owned(), 0) };
    let is_known = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        KNOWN.contains(&name) || name.starts_with("options[")
    };
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        parameters.split('&').filter(|pair| !pair.is_empty()).partition(is_known);
    (format!("{place}?{}", known.join("&")), unknown.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_know_does_not_reach_it() {
        let url = "postgresql://dwcp:secret@db/fleet?host=/run/pg&sslpassword=hidden&options[jit]=off&x";
        assert_eq!(divide(url), ("postgresql://dwcp:secret@db/fleet?host=/run/pg&options[jit]=off".to_owned(), 2));
        let options = parse(url).unwrap();
        assert_eq!((options.get_username(), options.get_database()), ("dwcp", Some("fleet")));
        assert!(parse("no url").is_err());
    }
}
