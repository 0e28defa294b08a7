//! Reads from `spec.providerID` where a machine is, by the platform that a scope names.
//!
//! Sources: Outscale's cloud controller (`aws:///<subregion>/<vm>`, which is not Amazon's), the
//! OpenStack and the Scaleway cloud controllers. Says what is written there and judges nothing.

/// How a provider writes `spec.providerID`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    /// `<scheme>:///<zone>/<id>`.
    #[default]
    Generic,
    /// `aws:///<subregion>/<vm>`; a region is its subregion without the last letter.
    Outscale,
    /// `openstack://<region>/<id>`.
    OvhCloud,
    /// `scaleway://instance/<zone>/<id>`; a region is its zone without the last number.
    Scaleway,
}

impl Platform {
    /// The word in the resource.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "Generic",
            Self::Outscale => "Outscale",
            Self::OvhCloud => "OVHcloud",
            Self::Scaleway => "Scaleway",
        }
    }
}

/// Where a machine says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its region, if that is said.
    pub region: Option<String>,
    /// Its subregion or zone, if that is said.
    pub subregion: Option<String>,
}

/// Where the machine is; `None` when its id says nothing of it.
///
/// # Errors
/// When the id is not one of that platform, which contradicts the scope.
pub fn place(platform: Platform, id: &str) -> Result<Option<Place>, String> {
    if id.is_empty() {
        return Ok(None);
    }
    let foreign = || Err(format!("spec.providerID {id} is none of {}", platform.as_str()));
    let Some((scheme, rest)) = id.split_once("://") else { return foreign() };
    let parts: Vec<&str> = rest.split('/').collect();
    match (platform, scheme, parts.as_slice()) {
        // An authority other than the empty one means something else on each platform.
        (Platform::Generic, _, ["", zone, machine]) if named(zone) && named(machine) => {
            Ok(Some(Place { region: None, subregion: Some((*zone).to_owned()) }))
        }
        (Platform::Generic, ..) => Ok(None),
        (Platform::Outscale, "aws", ["", subregion, machine])
            if named(machine) && machine.starts_with("i-") =>
        {
            let region = subregion.strip_suffix(|last: char| last.is_ascii_lowercase());
            let Some(region) = region.filter(|region| named(region)) else { return foreign() };
            Ok(Some(both(region, subregion)))
        }
        (Platform::OvhCloud, "openstack", ["", machine]) if named(machine) => Ok(None),
        (Platform::OvhCloud, "openstack", [region, machine]) if named(region) && named(machine) => {
            Ok(Some(Place { region: Some((*region).to_owned()), subregion: None }))
        }
        (Platform::Scaleway, "scaleway", ["instance", zone, machine]) if named(machine) => {
            let region = zone.rsplit_once('-').filter(|(_, number)| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            let Some((region, _)) = region.filter(|(region, _)| named(region)) else {
                return foreign();
            };
            Ok(Some(both(region, zone)))
        }
        _ => foreign(),
    }
}

fn both(region: &str, subregion: &str) -> Place {
    Place { region: Some(region.to_owned()), subregion: Some(subregion.to_owned()) }
}

fn named(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a subregion is one of a region's: the region, then a letter or number, perhaps after
/// `-`.
#[must_use]
pub fn is_of(subregion: &str, region: &str) -> bool {
    let Some(rest) = subregion.strip_prefix(region) else { return false };
    let last = rest.strip_prefix('-').unwrap_or(rest).as_bytes();
    matches!(last, [byte] if byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The machine's own id: the last part.
#[must_use]
pub fn machine(id: &str) -> Option<&str> {
    id.rsplit('/').next().filter(|machine| named(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(platform: Platform, id: &str) -> Option<(Option<String>, Option<String>)> {
        place(platform, id).unwrap().map(|place| (place.region, place.subregion))
    }

    fn is(region: &str, subregion: &str) -> Option<(Option<String>, Option<String>)> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Some((some(region), some(subregion)))
    }

    #[test]
    fn each_platform_is_read_in_its_own_way() {
        let outscale = "aws:///cloudgouv-eu-west-1a/i-0a1b2c3d";
        assert_eq!(
            says(Platform::Outscale, outscale),
            is("cloudgouv-eu-west-1", "cloudgouv-eu-west-1a")
        );
        assert_eq!(says(Platform::OvhCloud, "openstack://GRA9/6f1c"), is("GRA9", ""));
        assert_eq!(says(Platform::OvhCloud, "openstack:///6f1c"), None);
        assert_eq!(
            says(Platform::Scaleway, "scaleway://instance/fr-par-1/11"),
            is("fr-par", "fr-par-1")
        );
        assert_eq!(says(Platform::Generic, "x:///eu-1a/m"), is("", "eu-1a"));
        assert_eq!(says(Platform::Generic, "kind://docker/kind/kind-worker"), None);
        assert_eq!(says(Platform::Generic, ""), None);
    }

    #[test]
    fn an_id_of_another_platform_contradicts() {
        for (platform, id) in [
            (Platform::Outscale, "openstack:///6f1c"),
            (Platform::Outscale, "aws:///eu-west-1/i-1/x"),
            (Platform::Outscale, "aws:///1/i-1"),
            (Platform::Outscale, "i-1"),
            (Platform::Scaleway, "scaleway://baremetal/fr-par-1/1"),
            (Platform::Scaleway, "scaleway://instance/fr-par-/1"),
            (Platform::OvhCloud, "aws:///eu-west-2a/i-1"),
        ] {
            assert!(place(platform, id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_subregion_is_its_region_and_one_more_letter() {
        assert!(is_of("eu-west-2a", "eu-west-2"));
        assert!(is_of("fr-par-1", "fr-par"));
        assert!(!is_of("eu-west-22a", "eu-west-2"));
        assert!(!is_of("eu-west-2", "eu-west-2"));
        assert!(!is_of("us-east-2a", "eu-west-2"));
    }
}
