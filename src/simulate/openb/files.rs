//! Node and pod lists of the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::engine::fragmentation::Ask;
use crate::engine::idle::{Gpus, Idle, Need, WHOLE};
use crate::simulate::Error;
use crate::simulate::trace::{Row, Table};

/// Most GPUs of a node or a pod: more is a slip of the pen.
const MOST_GPUS: u32 = 1_024;

/// A node as it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Which of the trace's models.
    pub model: usize,
    pub idle: Idle,
}

/// Everything that is replayed.
#[derive(Debug)]
pub(super) struct Trace {
    /// Models, by name.
    pub models: Vec<String>,
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Kinds of request.
    pub asks: Vec<Ask>,
    /// Pods by name, each by its kind.
    pub pods: Vec<usize>,
    /// Thousandths of a GPU of all nodes.
    pub capacity: u64,
}

impl Trace {
    /// How often each request stands in the list.
    pub(super) fn asked(&self) -> BTreeMap<Ask, u64> {
        let mut asked = BTreeMap::new();
        for pod in &self.pods {
            *asked.entry(self.asks[*pod].clone()).or_default() += 1;
        }
        asked
    }
}

/// Reads both lists.
pub(super) fn read(nodes: &Path, pods: &Path) -> Result<Trace, Error> {
    let (models, nodes, capacity) = read_nodes(nodes)?;
    let (asks, pods) = read_pods(pods)?;
    Ok(Trace { models, nodes, asks, pods, capacity })
}

fn read_nodes(path: &Path) -> Result<(Vec<String>, Vec<Node>, u64), Error> {
    let table = Table::read(path, &["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
    let mut rows: BTreeMap<&str, (&str, Idle)> = BTreeMap::new();
    let mut capacity = 0;
    for row in table.rows() {
        let (name, model) = (named(&row, "sn")?, row.text("model").unwrap_or_default().trim());
        let whole = gpus(&row, "gpu")?;
        if whole > 0 && model.is_empty() {
            return Err(row.wrong("it has GPUs but no model".into()));
        }
        let (milli_cpu, memory) = (row.number("cpu_milli")?, memory(&row)?);
        let idle = Idle { milli_cpu, memory, whole, parts: Vec::new() };
        capacity += idle.milli();
        if rows.insert(name, (model, idle)).is_some() {
            return Err(row.wrong(format!("there is another node {name}")));
        }
    }
    if capacity == 0 {
        return Err(nothing(path, "no node has a GPU"));
    }
    let models: BTreeSet<&str> = rows.values().map(|(model, _)| *model).collect();
    let models: Vec<String> = models.into_iter().map(Into::into).collect();
    let place = |model: &str| models.binary_search_by(|other| other.as_str().cmp(model));
    let nodes = rows.into_values().map(|(model, idle)| {
        let model = place(model).expect("all models are listed");
        Node { model, idle }
    });
    let nodes = nodes.collect();
    Ok((models, nodes, capacity))
}

fn read_pods(path: &Path) -> Result<(Vec<Ask>, Vec<usize>), Error> {
    let columns = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"];
    let table = Table::read(path, &columns)?;
    let mut pods = Vec::new();
    for row in table.rows() {
        pods.push((named(&row, "name")?, ask(&row)?));
    }
    if pods.iter().all(|(_, ask)| ask.need.gpus == Gpus::None) {
        return Err(nothing(path, "no pod asks for a GPU"));
    }
    pods.sort();
    let kinds: BTreeSet<&Ask> = pods.iter().map(|(_, ask)| ask).collect();
    let asks: Vec<Ask> = kinds.into_iter().cloned().collect();
    let kind = |ask| asks.binary_search(ask).expect("all kinds are listed");
    let pods = pods.iter().map(|(_, ask)| kind(ask)).collect();
    Ok((asks, pods))
}

fn ask(row: &Row) -> Result<Ask, Error> {
    let gpus = match gpus(row, "num_gpu")? {
        0 => Gpus::None,
        1 => match row.number("gpu_milli")? {
            WHOLE => Gpus::Whole(1),
            milli if (1..WHOLE).contains(&milli) => Gpus::Part(milli),
            milli => {
                let what = format!("gpu_milli is {milli}, not 1 to {WHOLE} thousandths of a GPU");
                return Err(row.wrong(what));
            }
        },
        count => Gpus::Whole(count),
    };
    let need = Need { gpus, milli_cpu: row.number("cpu_milli")?, memory: memory(row)? };
    let spec = row.text("gpu_spec").unwrap_or_default();
    let models: BTreeSet<String> =
        spec.split('|').map(str::trim).filter(|model| !model.is_empty()).map(Into::into).collect();
    Ok(Ask { need, models: Some(models).filter(|models| !models.is_empty()) })
}

fn gpus(row: &Row, column: &str) -> Result<u32, Error> {
    let count: u32 = row.number(column)?;
    if count > MOST_GPUS {
        return Err(row.wrong(format!("{column} is {count}, more than {MOST_GPUS}")));
    }
    Ok(count)
}

/// Bytes.
fn memory(row: &Row) -> Result<u64, Error> {
    let mebibytes: u64 = row.number("memory_mib")?;
    let bytes = mebibytes.checked_mul(1 << 20);
    bytes.ok_or_else(|| row.wrong(format!("memory_mib is {mebibytes}, more than there can be")))
}

fn named<'a>(row: &Row<'a>, column: &str) -> Result<&'a str, Error> {
    let name = row.text(column).map(str::trim).filter(|name| !name.is_empty());
    name.ok_or_else(|| row.wrong(format!("{column} is empty")))
}

fn nothing(path: &Path, what: &str) -> Error {
    Error::Row { path: path.display().to_string(), line: 1, what: what.into() }
}
