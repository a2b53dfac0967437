//! The description in docs/ is what the code says.

#[test]
fn the_description_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/openapi.json");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == ringwall_api::openapi_document(),
        "docs/openapi.json is not what the code says; write it anew with: cargo run --release -- openapi > docs/openapi.json"
    );
}
