//! The promise to the previous version (D29, migrations/README.md): a migration expands, or names the least version that it leaves behind.

use std::{fs, path::Path};

/// What the program before still relies on. A statement that holds one of these takes something away from it.
const CONTRACTS: [&str; 8] = [
    "DROP TABLE",
    "DROP COLUMN",
    "RENAME TO",
    "RENAME COLUMN",
    "SET NOT NULL",
    "SET DATA TYPE",
    "ADD CONSTRAINT",
    "DROP DEFAULT",
];

/// What a migration takes away, unless it says from which version on nobody needs it.
fn contracts(text: &str) -> Vec<String> {
    if text.lines().any(|line| line.starts_with("-- least-version: ")) && text.contains("least_version =") {
        return Vec::new();
    }
    let code: Vec<_> = text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let code = code.join(" ").to_ascii_uppercase();
    let statements = code.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
    statements.filter(|statement| takes_away(statement)).collect()
}

fn takes_away(statement: &str) -> bool {
    if CONTRACTS.iter().any(|words| statement.contains(words)) {
        return true;
    }
    let alters = statement.starts_with("ALTER TABLE");
    // The old program's INSERT does not name a new column.
    let needs_a_value =
        |part: &str| part.contains("ADD COLUMN") && part.contains("NOT NULL") && !part.contains("DEFAULT");
    alters && (statement.split(',').any(needs_a_value) || statement.contains(" TYPE "))
}

#[test]
fn no_migration_takes_from_the_previous_version_what_it_needs() {
    for program in ["control-plane", "agent"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations").join(program);
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for (number, path) in (1..).zip(&names) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with(&format!("{number:04}_")), "{name}: numbers have no gaps");
            let found = contracts(&fs::read_to_string(path).unwrap());
            assert!(found.is_empty(), "{name}: see migrations/README.md: {found:#?}");
        }
    }
}

#[test]
fn what_contracts_is_told_from_what_expands() {
    for fine in [
        "CREATE TABLE a (b int NOT NULL)",
        "ALTER TABLE a ADD COLUMN b int; CREATE INDEX c ON a (b)",
        "ALTER TABLE a ADD COLUMN b int NOT NULL DEFAULT 0",
        "-- DROP TABLE a\nSELECT 1",
        "-- least-version: 0.3.0\nUPDATE program SET least_version = '{0,3,0}'; ALTER TABLE a DROP COLUMN b",
    ] {
        assert_eq!(contracts(fine), Vec::<String>::new(), "{fine}");
    }
    for bad in [
        "DROP TABLE a",
        "ALTER TABLE a\n  DROP COLUMN b",
        "alter table a rename column b to c",
        "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
        "ALTER TABLE a ALTER COLUMN b TYPE bigint",
        "ALTER TABLE a ADD COLUMN c int DEFAULT 1, ADD COLUMN b int NOT NULL",
        "-- least-version: 0.3.0\nALTER TABLE a DROP COLUMN b",
    ] {
        assert_eq!(contracts(bad).len(), 1, "{bad}");
    }
}
