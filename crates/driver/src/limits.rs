//! The limits of a task in words, for the event of its start (contract, pain 22).

use holdfast_wire::executor_v1::{IoMax, Limits};

/// Name and value of each limit that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective(Vec<(&'static str, String)>);

/// What an executor is asked to apply. What could not be applied is told apart.
pub fn describe(limits: Option<&Limits>) -> Effective {
    let Limits {
        memory_max_bytes,
        memory_low_bytes,
        cpu_shares,
        cpuset_cpus,
        memory_high_bytes,
        memory_swap_bytes,
        swappiness,
        oom_group,
        cpuset_mems,
        cpu_quota_us,
        cpu_period_us,
        cpu_burst_us,
        pids_max,
        io_weight,
        io_max,
    } = limits.cloned().unwrap_or_default();
    let mut set = Vec::new();
    let mut add = |name, value: Option<String>| set.extend(value.map(|value| (name, value)));
    add("memory_max", memory_max_bytes.map(bytes));
    add("memory_low", memory_low_bytes.map(bytes));
    add("memory_high", memory_high_bytes.map(bytes));
    add("memory_swap", memory_swap_bytes.map(bytes));
    add("memory_swappiness", swappiness.map(|number| number.to_string()));
    add("oom_group", oom_group.map(|is_set| is_set.to_string()));
    add("cpu_shares", cpu_shares.map(|number| number.to_string()));
    add("cpu_quota", cpu_quota_us.map(|quota| unlimited_or(quota, " us")));
    add("cpu_period", cpu_period_us.map(|number| format!("{number} us")));
    add("cpu_burst", cpu_burst_us.map(|number| format!("{number} us")));
    add("cpuset_cpus", cpuset_cpus);
    add("cpuset_mems", cpuset_mems);
    add("pids_limit", pids_max.map(|count| unlimited_or(count, "")));
    add("io_weight", io_weight.map(|number| number.to_string()));
    let io_max: Vec<String> = io_max.iter().map(device).collect();
    add("io_max", (!io_max.is_empty()).then(|| io_max.join(", ")));
    Effective(set)
}

impl Effective {
    /// One line for a person.
    pub fn message(&self) -> String {
        if self.0.is_empty() {
            return "Limits: none".to_owned();
        }
        let each: Vec<String> = self.0.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("Limits: {}", each.join(", "))
    }

    /// The same for programs.
    pub fn annotations(&self) -> Vec<(&str, String)> {
        self.0.iter().map(|(name, value)| (*name, value.clone())).collect()
    }
}

fn unlimited_or(number: i64, unit: &str) -> String {
    match number {
        ..0 => "unlimited".to_owned(),
        number => format!("{number}{unit}"),
    }
}

fn bytes(number: i64) -> String {
    const MEBIBYTE: i64 = 1 << 20;
    match number {
        1.. if number % MEBIBYTE == 0 => format!("{} MiB", number / MEBIBYTE),
        number => unlimited_or(number, " bytes"),
    }
}

fn device(limit: &IoMax) -> String {
    let IoMax {
        major,
        minor,
        read_bytes_per_second,
        write_bytes_per_second,
        read_operations_per_second,
        write_operations_per_second,
    } = limit;
    let mut text = format!("{major}:{minor}");
    for (name, rate) in [
        ("rbps", read_bytes_per_second),
        ("wbps", write_bytes_per_second),
        ("riops", read_operations_per_second),
        ("wiops", write_operations_per_second),
    ] {
        if let Some(rate) = rate {
            text.push_str(&format!(" {name}={rate}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_start_are_told_in_one_line() {
        assert_eq!(describe(None).message(), "Limits: none");
        let limits = Limits {
            memory_max_bytes: Some(128 << 20),
            memory_low_bytes: Some(5),
            memory_swap_bytes: Some(-1),
            cpu_shares: Some(100),
            cpu_quota_us: Some(-1),
            cpuset_cpus: Some("0-1".to_owned()),
            pids_max: Some(64),
            io_max: vec![IoMax {
                major: 8,
                write_bytes_per_second: Some(7),
                ..IoMax::default()
            }],
            ..Limits::default()
        };
        let told = describe(Some(&limits));
        assert_eq!(
            told.message(),
            "Limits: memory_max 128 MiB, memory_low 5 bytes, memory_swap unlimited, cpu_shares 100, cpu_quota \
             unlimited, cpuset_cpus 0-1, pids_limit 64, io_max 8:0 wbps=7"
        );
        assert!(told.annotations().contains(&("pids_limit", "64".to_owned())));
    }
}
