//! The whole answer: every tier with its requirements, and which tier is the strongest one that works.

use std::path::{Path, PathBuf};

use ringwall_types::Tier;
use serde::Serialize;

use crate::facts::Facts;
use crate::requirement::{Need, Requirement, Status};
use crate::trial::{self, Trial};
use crate::{control_groups, kvm, landlock, namespaces, seccomp, state_dir};

/// What this machine and this user can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// Whether any tier can be used.
    pub usable: bool,
    /// The strongest tier that can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_tier: Option<Tier>,
    /// The machine and the caller.
    pub host: Host,
    /// The tiers, strongest first.
    pub tiers: Vec<TierReport>,
    /// What every tier uses where it is there.
    pub shared: Vec<Requirement>,
}

/// The machine and the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// The kernel's release.
    pub kernel: String,
    /// The effective user id.
    pub uid: u32,
    /// Where captured writes are kept.
    pub state_dir: PathBuf,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierReport {
    /// Its name, as `--isolation` takes it.
    pub name: &'static str,
    /// Whether it can be used.
    pub availability: Availability,
    /// What it needs.
    pub requirements: Vec<Requirement>,
}

/// Whether a tier can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// With everything.
    Complete,
    /// It works, but something useful is missing.
    Limited,
    /// Something that it can't do without is missing.
    Unavailable,
    /// This build does not have it yet; what the machine has is listed all the same.
    NotInThisBuild,
}

/// Finds out what this machine and this user can do.
///
/// `state_dir` is where captured writes will be kept; it need not exist. Starts a child process for a moment and leaves nothing
/// behind.
#[must_use]
pub fn probe(state_dir: &Path) -> Doctor {
    let facts = Facts::read_below(Path::new("/"));
    let scratch = state_dir::Scratch::make(state_dir);
    let trial = scratch
        .as_ref()
        .map_or_else(|_| Trial::not_tried(), |scratch| trial::run(scratch.path()));
    let overlay = state_dir::judge_overlay(&facts, &trial, &scratch);
    drop(scratch);
    let abi = landlock::abi();
    let filter = seccomp::Features::read(&facts);

    let mut namespace = namespaces::judge(&facts, &trial);
    namespace.push(overlay);
    namespace.push(filter.judge_filter());
    namespace.push(landlock::judge(abi, &facts, Need::Useful));
    let mut process_only = vec![landlock::judge(abi, &facts, Need::Required), filter.judge_filter()];
    process_only.push(filter.judge_notification());
    let tiers = vec![
        TierReport {
            name: "microvm",
            availability: Availability::NotInThisBuild,
            requirements: kvm::judge(&facts, &kvm::Device::open(), std::env::consts::ARCH),
        },
        TierReport::new("namespace", namespace),
        TierReport::new("landlock", process_only),
    ];
    let host = Host {
        architecture: std::env::consts::ARCH.to_owned(),
        kernel: facts.kernel_release.clone(),
        uid: facts.uid,
        state_dir: state_dir.to_owned(),
    };
    Doctor::new(host, tiers, control_groups::judge())
}

impl Doctor {
    fn new(host: Host, tiers: Vec<TierReport>, shared: Vec<Requirement>) -> Doctor {
        let works = |one: &&TierReport| matches!(one.availability, Availability::Complete | Availability::Limited);
        let best_tier = tiers.iter().filter(works).find_map(|one| one.name.parse().ok());
        Doctor {
            usable: best_tier.is_some(),
            best_tier,
            host,
            tiers,
            shared,
        }
    }

    /// Whether any tier can be used: the exit code of `ringwall doctor`.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.usable
    }

    /// The strongest tier that can be used.
    #[must_use]
    pub fn best_tier(&self) -> Option<Tier> {
        self.best_tier
    }

    /// The report of one tier.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<&TierReport> {
        self.tiers.iter().find(|one| one.name.parse() == Ok(tier))
    }
}

impl TierReport {
    fn new(name: &'static str, requirements: Vec<Requirement>) -> TierReport {
        let lacks = |need| {
            requirements
                .iter()
                .any(|one| one.need == need && one.status == Status::Missing)
        };
        let availability = if lacks(Need::Required) {
            Availability::Unavailable
        } else if requirements.iter().any(|one| one.status != Status::Found) {
            Availability::Limited
        } else {
            Availability::Complete
        };
        TierReport {
            name,
            availability,
            requirements,
        }
    }

    /// The first requirement whose absence makes the tier impossible: the reason to give when it was asked for.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Requirement> {
        self.requirements
            .iter()
            .find(|one| one.need == Need::Required && one.status == Status::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor(namespace: Vec<Requirement>, landlock: Vec<Requirement>) -> Doctor {
        let host = Host {
            architecture: "x86_64".into(),
            kernel: "6.1".into(),
            uid: 1,
            state_dir: "/s".into(),
        };
        Doctor::new(
            host,
            vec![
                TierReport::new("namespace", namespace),
                TierReport::new("landlock", landlock),
            ],
            Vec::new(),
        )
    }

    #[test]
    fn the_strongest_tier_that_lacks_nothing_required_is_the_best() {
        let found = || Requirement::found("a", Need::Required, "");
        let useful = || Requirement::missing("b", Need::Useful, "", "c");
        let required = || Requirement::missing("d", Need::Required, "", "c");
        let limited = doctor(vec![found(), useful()], vec![found()]);
        assert_eq!(limited.best_tier(), Some(Tier::Namespace));
        assert_eq!(limited.tiers[0].availability, Availability::Limited);
        let weaker = doctor(vec![found(), required()], vec![found()]);
        assert_eq!(weaker.best_tier(), Some(Tier::Landlock));
        assert_eq!(
            weaker
                .tier(Tier::Namespace)
                .and_then(TierReport::obstacle)
                .map(|one| one.name),
            Some("d")
        );
        let none = doctor(vec![required()], vec![required()]);
        assert!(!none.usable() && none.best_tier().is_none());
    }

    #[test]
    fn this_machine_gives_an_answer_and_nothing_is_left() {
        let state = tempfile::tempdir().expect("directory");
        let inside = state.path().join("not/yet/there");
        let answer = probe(&inside);
        assert_eq!(answer.tiers.len(), 3);
        assert_eq!(
            std::fs::read_dir(state.path()).expect("directory").count(),
            0,
            "something was left"
        );
        for one in answer.tiers.iter().flat_map(|tier| &tier.requirements) {
            assert_eq!(one.status == Status::Found, one.cost.is_none(), "{one:?}");
        }
        let json = serde_json::to_value(&answer).expect("JSON");
        assert_eq!(json["tiers"][0]["availability"], "not-in-this-build");
        println!("{}", answer.render_text());
    }
}
