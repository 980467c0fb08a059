//! What a GPU is called: the one table from product labels to models, memory and resource names.
//!
//! Models are what users name (`A100`, `A100/1g.10gb`); products are what GPU Feature Discovery
//! writes on nodes; resources are what pods ask for.

/// Resource of whole GPUs.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";
/// Resources of MIG slices begin with this, followed by the profile.
pub const MIG_RESOURCE_PREFIX: &str = "nvidia.com/mig-";
/// Node label with the product, written by GPU Feature Discovery.
pub const PRODUCT_LABEL: &str = "nvidia.com/gpu.product";
/// Node label with the memory of one GPU in MiB.
pub const MEMORY_LABEL: &str = "nvidia.com/gpu.memory";
/// Node label with the way GPUs are shared; anything but `none` is not lent.
pub const SHARING_LABEL: &str = "nvidia.com/gpu.sharing-strategy";

/// How a node hands out the GPUs of a product under [`GPU_RESOURCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handout {
    /// One resource is one GPU.
    Whole,
    /// Several pods share a GPU (time slicing, MPS): not lent, since guests would share with owners.
    Shared,
    /// One resource is one MIG slice (MIG strategy `single`): not lent, since the same model would
    /// have another resource name than under strategy `mixed`.
    SingleMig,
}

/// One kind of GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuKind {
    /// Model, as users name it.
    pub model: String,
    /// Memory of one GPU as a quantity, such as `80Gi`; `None` = unknown.
    pub memory: Option<String>,
    /// How its node hands it out.
    pub handout: Handout,
}

/// Product without `NVIDIA-`, model, memory in GiB as its maker names it.
const PRODUCTS: &[(&str, &str, u32)] = &[
    ("A10", "A10", 24),
    ("A10G", "A10G", 24),
    ("A16", "A16", 16),
    ("A2", "A2", 16),
    ("A30", "A30", 24),
    ("A40", "A40", 48),
    ("A100-PCIE-40GB", "A100", 40),
    ("A100-SXM4-40GB", "A100", 40),
    ("A100-80GB-PCIe", "A100", 80),
    ("A100-PCIE-80GB", "A100", 80),
    ("A100-PG509-200", "A100", 40),
    ("A100-SXM-64GB", "A100", 64),
    ("A100-SXM4-80GB", "A100", 80),
    ("A800-SXM4-80GB", "A800", 80),
    ("A800-80GB-PCIe", "A800", 80),
    ("B200", "B200", 180),
    ("GB200", "GB200", 186),
    ("GH200-120GB", "GH200", 96),
    ("GH200-480GB", "GH200", 96),
    ("GH200-144G-HBM3e", "GH200", 144),
    ("H20", "H20", 96),
    ("H100-80GB-HBM3", "H100", 80),
    ("H100-64GB-HBM2", "H100", 64),
    ("H100-NVL", "H100", 94),
    ("H100-PCIe", "H100", 80),
    ("H100-SXM5-80GB", "H100", 80),
    ("H200", "H200", 141),
    ("H200-NVL", "H200", 141),
    ("H800", "H800", 80),
    ("L4", "L4", 24),
    ("L40", "L40", 48),
    ("L40S", "L40S", 48),
    ("GeForce-RTX-2080-Ti", "RTX-2080-Ti", 11),
    ("GeForce-RTX-3080", "RTX-3080", 10),
    ("GeForce-RTX-3090", "RTX-3090", 24),
    ("GeForce-RTX-3090-Ti", "RTX-3090-Ti", 24),
    ("GeForce-RTX-4080", "RTX-4080", 16),
    ("GeForce-RTX-4090", "RTX-4090", 24),
    ("GeForce-RTX-4090-D", "RTX-4090-D", 24),
    ("GeForce-RTX-5080", "RTX-5080", 16),
    ("GeForce-RTX-5090", "RTX-5090", 32),
    ("RTX-A2000-12GB", "RTX-A2000", 12),
    ("RTX-A4000", "RTX-A4000", 16),
    ("RTX-A4500", "RTX-A4500", 20),
    ("RTX-A5000", "RTX-A5000", 24),
    ("RTX-A6000", "RTX-A6000", 48),
    ("RTX-4000-Ada-Generation", "RTX-4000-Ada", 20),
    ("RTX-5000-Ada-Generation", "RTX-5000-Ada", 32),
    ("RTX-6000-Ada-Generation", "RTX-6000-Ada", 48),
    ("RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000", 96),
    ("RTX-PRO-6000-Blackwell-Workstation-Edition", "RTX-PRO-6000", 96),
    ("Quadro-RTX-6000", "Quadro-RTX-6000", 24),
    ("Quadro-RTX-8000", "Quadro-RTX-8000", 48),
    ("Tesla-P4", "P4", 8),
    ("Tesla-P40", "P40", 24),
    ("Tesla-P100-PCIE-12GB", "P100", 12),
    ("Tesla-P100-PCIE-16GB", "P100", 16),
    ("Tesla-P100-SXM2-16GB", "P100", 16),
    ("Tesla-T4", "T4", 16),
    ("T4", "T4", 16),
    ("Tesla-V100-DGXS-16GB", "V100", 16),
    ("Tesla-V100-DGXS-32GB", "V100", 32),
    ("Tesla-V100-FHHL-16GB", "V100", 16),
    ("Tesla-V100-PCIE-16GB", "V100", 16),
    ("Tesla-V100-PCIE-32GB", "V100", 32),
    ("Tesla-V100S-PCIE-32GB", "V100", 32),
    ("Tesla-V100-SXM2-16GB", "V100", 16),
    ("Tesla-V100-SXM2-32GB", "V100", 32),
    ("Tesla-V100-SXM3-32GB", "V100", 32),
];

/// The kind of GPU behind the product label of a node. A product that the table lacks is a model of
/// its own name without the vendor, with the memory of the node's label (`memory_mib`), if any.
#[must_use]
pub fn kind(product: &str, memory_mib: Option<u64>) -> GpuKind {
    let bare = product.strip_prefix("NVIDIA-").unwrap_or(product);
    let (bare, shared) = match bare.strip_suffix("-SHARED") {
        Some(rest) => (rest, true),
        None => (bare, false),
    };
    let (bare, profile) = match bare.split_once("-MIG-") {
        Some((card, profile)) => (card, Some(profile)),
        None => (bare, None),
    };
    let known = PRODUCTS.iter().find(|(name, _, _)| name.eq_ignore_ascii_case(bare));
    let model = known.map_or(bare, |(_, model, _)| model);
    let handout = match (shared, profile) {
        (true, _) => Handout::Shared,
        (false, Some(_)) => Handout::SingleMig,
        (false, None) => Handout::Whole,
    };
    if let Some(profile) = profile {
        return GpuKind {
            model: format!("{model}/{profile}"),
            memory: slice_memory(profile),
            handout,
        };
    }
    let memory = known
        .map(|(_, _, gibibytes)| format!("{gibibytes}Gi"))
        .or_else(|| memory_mib.filter(|mib| *mib > 0).map(|mib| format!("{mib}Mi")));
    GpuKind { model: model.into(), memory, handout }
}

/// The kind of a MIG slice: `resource` is such as `nvidia.com/mig-1g.10gb`, `card` the model of the
/// whole GPU. `None` if the resource is no MIG slice.
#[must_use]
pub fn slice(card: &str, resource: &str) -> Option<GpuKind> {
    let profile = resource.strip_prefix(MIG_RESOURCE_PREFIX).filter(|rest| !rest.is_empty())?;
    Some(GpuKind {
        model: format!("{card}/{profile}"),
        memory: slice_memory(profile),
        handout: Handout::Whole,
    })
}

/// The resource that a pod asks for to get GPUs of `model`.
#[must_use]
pub fn resource_name(model: &str) -> String {
    match model.split_once('/') {
        Some((_, profile)) => format!("{MIG_RESOURCE_PREFIX}{profile}"),
        None => GPU_RESOURCE.into(),
    }
}

/// Memory of a MIG profile such as `1g.10gb` or `1g.10gb.me`.
fn slice_memory(profile: &str) -> Option<String> {
    let size = profile.split('.').nth(1)?.strip_suffix("gb")?;
    size.parse::<u32>().ok().map(|gibibytes| format!("{gibibytes}Gi"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::quantity;

    fn check(product: &str, model: &str, memory: Option<&str>) {
        let found = kind(product, None);
        assert_eq!((found.model.as_str(), found.memory.as_deref()), (model, memory), "{product}");
    }

    #[test]
    fn products_become_models() {
        check("NVIDIA-A100-SXM4-80GB", "A100", Some("80Gi"));
        check("A100-SXM4-40GB", "A100", Some("40Gi"));
        check("NVIDIA-A100-80GB-PCIe", "A100", Some("80Gi"));
        check("NVIDIA-H100-80GB-HBM3", "H100", Some("80Gi"));
        check("NVIDIA-H100-NVL", "H100", Some("94Gi"));
        check("NVIDIA-H200", "H200", Some("141Gi"));
        check("NVIDIA-B200", "B200", Some("180Gi"));
        check("NVIDIA-L4", "L4", Some("24Gi"));
        check("NVIDIA-L40S", "L40S", Some("48Gi"));
        check("NVIDIA-A10", "A10", Some("24Gi"));
        check("NVIDIA-A10G", "A10G", Some("24Gi"));
        check("NVIDIA-A30", "A30", Some("24Gi"));
        check("NVIDIA-A40", "A40", Some("48Gi"));
        check("Tesla-V100-SXM2-16GB", "V100", Some("16Gi"));
        check("Tesla-V100-SXM2-32GB", "V100", Some("32Gi"));
        check("Tesla-T4", "T4", Some("16Gi"));
        check("NVIDIA-GeForce-RTX-4090", "RTX-4090", Some("24Gi"));
        check("NVIDIA-RTX-A6000", "RTX-A6000", Some("48Gi"));
        check("NVIDIA-RTX-6000-Ada-Generation", "RTX-6000-Ada", Some("48Gi"));
    }

    #[test]
    fn an_unknown_product_is_its_own_model_with_the_memory_of_its_label() {
        let found = kind("NVIDIA-B300-SXM6-AC", Some(275_040));
        assert_eq!(found.model, "B300-SXM6-AC");
        assert_eq!(found.memory.as_deref(), Some("275040Mi"));
        assert_eq!(kind("Mystery", None).memory, None);
        assert_eq!(kind("Mystery", Some(0)).memory, None);
    }

    #[test]
    fn shared_and_singly_sliced_products_are_told_apart() {
        assert_eq!(kind("NVIDIA-A100-SXM4-80GB-SHARED", None).handout, Handout::Shared);
        assert_eq!(kind("NVIDIA-A100-SXM4-80GB-SHARED", None).model, "A100");
        let sliced = kind("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", Some(9728));
        assert_eq!(sliced.model, "A100/1g.10gb");
        assert_eq!(sliced.memory.as_deref(), Some("10Gi"));
        assert_eq!(sliced.handout, Handout::SingleMig);
        assert_eq!(kind("NVIDIA-L4", None).handout, Handout::Whole);
    }

    #[test]
    fn slices_are_models_of_their_card_and_name_their_resource() {
        let found = slice("A100", "nvidia.com/mig-1g.10gb").unwrap();
        assert_eq!(found.model, "A100/1g.10gb");
        assert_eq!(found.memory.as_deref(), Some("10Gi"));
        assert_eq!(resource_name(&found.model), "nvidia.com/mig-1g.10gb");
        assert_eq!(slice("H100", "nvidia.com/mig-1g.10gb.me").unwrap().memory.unwrap(), "10Gi");
        assert_eq!(slice("A100", "nvidia.com/gpu"), None);
        assert_eq!(slice("A100", "nvidia.com/mig-"), None);
        assert_eq!(resource_name("A100"), "nvidia.com/gpu");
    }

    #[test]
    fn the_table_names_each_product_once_and_every_memory_is_a_quantity() {
        let mut seen = BTreeSet::new();
        for (product, _, _) in PRODUCTS {
            assert!(seen.insert(product.to_ascii_lowercase()), "{product} twice");
            assert!(quantity::bytes(&kind(product, None).memory.unwrap()).is_ok());
        }
    }
}
