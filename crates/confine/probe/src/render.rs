//! The answer as text for people. One line per requirement, below it what its absence costs and what would help.

use std::fmt::{self, Write};

use crate::doctor::{Availability, Doctor, TierReport};
use crate::requirement::{Need, Requirement, Status};

impl Doctor {
    /// Writes the whole answer as text; it ends with a line break.
    #[must_use]
    pub fn render_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = self.render(&mut text);
        text
    }

    fn render(&self, out: &mut String) -> fmt::Result {
        let host = &self.host;
        let user = if host.uid == 0 {
            "root".to_owned()
        } else {
            format!("user {}", host.uid)
        };
        writeln!(
            out,
            "Linux {} on {}, {user}, state in {}",
            host.kernel,
            host.architecture,
            host.state_dir.display()
        )?;
        for tier in &self.tiers {
            writeln!(out, "\n{}: {}", tier.name, summary(tier))?;
            tier.requirements
                .iter()
                .try_for_each(|one| render_requirement(out, one))?;
        }
        writeln!(out, "\nlimits:")?;
        self.shared.iter().try_for_each(|one| render_requirement(out, one))?;
        match self.best_tier {
            Some(tier) => writeln!(out, "\n--isolation auto uses: {tier}"),
            None => writeln!(out, "\nNo tier can be used on this machine."),
        }
    }
}

fn summary(tier: &TierReport) -> &'static str {
    match tier.availability {
        Availability::Complete => "can be used",
        Availability::Limited => "can be used, with something missing",
        Availability::Unavailable => "can't be used",
        Availability::NotInThisBuild => "not in this build; what the machine has:",
    }
}

fn render_requirement(out: &mut String, one: &Requirement) -> fmt::Result {
    let mark = match (one.status, one.need) {
        (Status::Found, _) => "ok",
        (Status::Partial, _) => "part",
        (Status::Missing, Need::Required) => "MISSING",
        (Status::Missing, Need::Useful) => "missing",
    };
    writeln!(out, "  {mark:<8}{}: {}", one.name, one.value)?;
    if let Some(cost) = &one.cost {
        writeln!(out, "          cost: {cost}")?;
    }
    if let Some(fix) = &one.fix {
        writeln!(out, "          fix:  {fix}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Host;

    #[test]
    fn the_text_says_what_is_missing_and_what_helps() {
        let requirements = vec![
            Requirement::found("a", Need::Required, "there"),
            Requirement::missing("b", Need::Required, "gone", "much").with_fix("do it"),
        ];
        let tiers = vec![TierReport {
            name: "namespace",
            availability: Availability::Unavailable,
            requirements,
        }];
        let host = Host {
            architecture: "aarch64".into(),
            kernel: "6.1".into(),
            uid: 1000,
            state_dir: "/s".into(),
        };
        let doctor = Doctor {
            usable: false,
            best_tier: None,
            host,
            tiers,
            shared: Vec::new(),
        };
        let wanted = "\
Linux 6.1 on aarch64, user 1000, state in /s

namespace: can't be used
  ok      a: there
  MISSING b: gone
          cost: much
          fix:  do it

limits:

No tier can be used on this machine.
";
        assert_eq!(doctor.render_text(), wanted);
    }
}
