//! `cargo xtask layers`: dependencies between our crates point down through the layers only (house-style: "Direction").
//!
//! ```text
//! base < proto, store, net, sandbox < confine, virt < backend < node < bin        base, proto, sandbox < control < bin
//! ```
//! Crates of one layer may use each other (cargo forbids cycles); different layers of the same height may not.
//! Development dependencies count too; xtask and tests/ may use anything and nothing may use them.

use std::fmt;
use std::path::Path;

use crate::checkout::{CheckoutError, Workspace};

/// A layer, named by its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Base,
    Proto,
    Store,
    Net,
    Sandbox,
    Confine,
    Virt,
    Backend,
    Node,
    Control,
    Bin,
    /// xtask and tests: outside of the product.
    Outside,
}

/// An arrow that points the wrong way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upward {
    from: String,
    from_layer: Layer,
    to: String,
    to_layer: Layer,
}

impl fmt::Display for Upward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({:?}) must not use {} ({:?})",
            self.from, self.from_layer, self.to, self.to_layer
        )
    }
}

/// Why the layers are not in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    /// cargo couldn't be asked.
    #[error("can't list the workspace's crates")]
    Checkout(#[from] CheckoutError),
    /// A crate lies in a folder that no layer is known for.
    #[error("{package} lies in {folder}, which is no layer: add it to xtask/src/layers.rs and ARCHITECTURE.md")]
    UnknownFolder {
        /// The crate.
        package: String,
        /// Its folder in the checkout.
        folder: String,
    },
    /// Some arrows point upward.
    #[error("{} dependencies point the wrong way:\n  {}", .0.len(), .0.iter().map(Upward::to_string).collect::<Vec<_>>().join("\n  "))]
    Upward(Vec<Upward>),
}

impl Layer {
    /// The layer of a folder in the checkout, such as `crates/base/types`.
    fn of(folder: &str) -> Option<Self> {
        let mut parts = folder.split('/');
        Some(match (parts.next()?, parts.next()) {
            ("xtask" | "tests" | "fuzz", _) => Self::Outside,
            ("bin", Some(_)) => Self::Bin,
            ("crates", Some(layer)) => match layer {
                "base" => Self::Base,
                "proto" => Self::Proto,
                "store" => Self::Store,
                "net" => Self::Net,
                "sandbox" => Self::Sandbox,
                "confine" => Self::Confine,
                "virt" => Self::Virt,
                "backend" => Self::Backend,
                "node" => Self::Node,
                "control" => Self::Control,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// How high the layer stands; `control` stands beside and has its own rule.
    const fn height(self) -> u8 {
        match self {
            Self::Base => 0,
            Self::Proto | Self::Store | Self::Net | Self::Sandbox => 1,
            Self::Confine | Self::Virt => 2,
            Self::Backend => 3,
            Self::Node | Self::Control => 4,
            Self::Bin => 5,
            Self::Outside => 6,
        }
    }

    /// Whether a crate of this layer may depend on a crate of the other.
    fn may_use(self, other: Self) -> bool {
        match (self, other) {
            (Self::Outside, _) => true,
            (_, Self::Outside) | (Self::Bin, Self::Bin) => false,
            (Self::Control, other) => {
                matches!(other, Self::Control | Self::Base | Self::Proto | Self::Sandbox)
            }
            (one, other) => one == other || one.height() > other.height(),
        }
    }
}

/// A crate for the rule: its name, its folder in the checkout, and the folders of our crates that it uses.
struct Node<'a> {
    name: &'a str,
    folder: String,
    uses: Vec<(&'a str, String)>,
}

fn check(nodes: &[Node<'_>]) -> Result<(), LayersError> {
    let layer_of = |package: &str, folder: &str| {
        let unknown = || LayersError::UnknownFolder {
            package: package.to_owned(),
            folder: folder.to_owned(),
        };
        Layer::of(folder).ok_or_else(unknown)
    };
    let mut wrong = Vec::new();
    for node in nodes {
        let from_layer = layer_of(node.name, &node.folder)?;
        for (to, folder) in &node.uses {
            let to_layer = layer_of(to, folder)?;
            // The agent runs inside of the sandbox: what it carries is attack surface, so it sees the two lowest layers only.
            let is_too_much = node.name == "ringwall-agent" && !matches!(to_layer, Layer::Base | Layer::Proto);
            // One executable is all three programs, by the name it is started under.
            let is_part = node.name == "ringwall" && matches!(*to, "ringwall-agent" | "ringwall-interpreter");
            if !(from_layer.may_use(to_layer) || is_part) || is_too_much {
                wrong.push(Upward {
                    from: node.name.to_owned(),
                    from_layer,
                    to: (*to).to_owned(),
                    to_layer,
                });
            }
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(LayersError::Upward(wrong))
    }
}

/// Checks the workspace.
///
/// # Errors
/// [`LayersError`]: which crates are not in order.
pub(crate) fn run() -> Result<(), LayersError> {
    let workspace = Workspace::load()?;
    let root = &workspace.workspace_root;
    let inside = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let nodes = workspace.packages.iter().map(|package| Node {
        name: &package.name,
        folder: package.manifest_path.parent().map(inside).unwrap_or_default(),
        uses: package
            .dependencies
            .iter()
            .filter_map(|uses| Some((&*uses.name, inside(uses.path.as_ref()?))))
            .collect(),
    });
    let nodes: Vec<_> = nodes.collect();
    check(&nodes)?;
    let arrows: usize = nodes.iter().map(|node| node.uses.len()).sum();
    println!(
        "layers: {arrows} dependencies between {} crates, all downward",
        nodes.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks one arrow between two folders.
    fn arrow(from: &str, to: &str) -> bool {
        named_arrow("one", from, to)
    }

    fn named_arrow(name: &str, from: &str, to: &str) -> bool {
        check(&[Node {
            name,
            folder: from.to_owned(),
            uses: vec![("two", to.to_owned())],
        }])
        .is_ok()
    }

    #[test]
    fn downward_arrows_are_fine() {
        assert!(arrow("crates/store/layer", "crates/base/sys"));
        assert!(arrow("crates/confine/confine", "crates/store/layer"));
        assert!(arrow("crates/backend/backend-process", "crates/confine/confine"));
        assert!(arrow("bin/ringwall", "crates/control/api"));
        assert!(arrow("crates/control/api", "crates/sandbox/sandbox"));
        assert!(arrow("crates/virt/devices", "crates/virt/arch"));
        assert!(arrow("tests/e2e", "crates/backend/backend-process"));
    }

    #[test]
    fn upward_and_sideward_arrows_are_not() {
        assert!(!arrow("crates/base/sys", "crates/store/layer"));
        assert!(!arrow("crates/store/layer", "crates/sandbox/sandbox"));
        assert!(!arrow("crates/confine/confine", "crates/virt/arch"));
        assert!(!arrow("crates/confine/confine", "crates/backend/backend-process"));
        assert!(!arrow("crates/backend/backend-process", "bin/ringwall"));
        assert!(!arrow("bin/ringwall", "bin/ringwall-agent"));
        assert!(!arrow("bin/ringwall", "xtask"));
    }

    #[test]
    fn control_stands_beside_and_never_sees_a_backend() {
        assert!(!arrow("crates/control/api", "crates/node/node"));
        assert!(!arrow("crates/control/api", "crates/backend/backend-process"));
        assert!(!arrow("crates/control/api", "crates/store/layer"));
        assert!(!arrow("crates/node/node", "crates/control/api"));
        assert!(!arrow("crates/backend/backend-process", "crates/control/api"));
    }

    #[test]
    fn the_agent_sees_the_two_lowest_layers_only() {
        assert!(named_arrow(
            "ringwall-agent",
            "bin/ringwall-agent",
            "crates/proto/agent-proto"
        ));
        assert!(!named_arrow(
            "ringwall-agent",
            "bin/ringwall-agent",
            "crates/sandbox/sandbox"
        ));
    }

    #[test]
    fn a_folder_without_a_layer_is_an_error() {
        let lost = Node {
            name: "lost",
            folder: "crates/misc/lost".to_owned(),
            uses: Vec::new(),
        };
        assert!(matches!(check(&[lost]), Err(LayersError::UnknownFolder { .. })));
    }
}
