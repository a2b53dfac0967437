//! Judges control groups: which limits they can hold, and what holds them otherwise.

use ringwall_cgroup::{Controller, Host, Mechanism, Plan, WhyNot};

use crate::requirement::{Need, Requirement};

/// Judges every controller on this machine.
pub(crate) fn judge() -> Vec<Requirement> {
    let host = Host::read();
    let examine = |controller| match &host {
        Ok(host) => Plan::examine(controller, host),
        Err(_) => Err(WhyNot::NotMounted),
    };
    Controller::ALL
        .into_iter()
        .map(|controller| judge_one(controller, examine(controller)))
        .collect()
}

fn judge_one(controller: Controller, found: Result<Mechanism, WhyNot>) -> Requirement {
    let (name, option) = match controller {
        Controller::Memory => ("memory control group", "--memory"),
        Controller::Cpu => ("cpu control group", "--cpus"),
        Controller::Pids => ("pids control group", "--pids"),
    };
    match found {
        Ok(mechanism) => Requirement::found(name, Need::Useful, mechanism.to_string()),
        Err(why) => {
            let cost = format!(
                "{option} can't be held for the whole sandbox: it is refused unless degraded limits are allowed"
            );
            Requirement::missing(name, Need::Useful, why.to_string(), cost).with_fix(why.hint())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    #[test]
    fn a_limit_out_of_reach_names_its_option_and_a_fix() {
        let one = judge_one(Controller::Cpu, Err(WhyNot::NotDelegated { dir: "/x".into() }));
        assert_eq!(one.status, Status::Missing);
        assert!(one.cost.is_some_and(|cost| cost.starts_with("--cpus ")));
        assert!(one.fix.is_some_and(|fix| fix.contains("systemd-run")));
    }
}
