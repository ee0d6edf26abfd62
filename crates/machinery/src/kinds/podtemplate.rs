//! PodTemplate (`pkg/registry/core/podtemplate/strategy.go`).

use super::common::{bump_if, column, format_labels, name, name_column};
use super::pod::{defaults, validate, warnings};
use super::workload::{is_new_generation, template_cells};
use super::{Column, Strategy};
use crate::field::{Errors, Path};
use crate::validation::{Messages, is_dns1123_subdomain};
use api::k8s::api::core::v1::{PodSpec, PodTemplate};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// What is particular about a PodTemplate.
pub(super) struct PodTemplateKind;

impl Strategy for PodTemplateKind {
    type Object = PodTemplate;

    fn pod_spec(object: &mut PodTemplate) -> Option<&mut PodSpec> {
        object.template.as_mut()?.spec.as_mut()
    }

    fn default(template: &mut PodTemplate) {
        defaults::template(template.template.get_or_insert_default());
    }

    fn prepare_create(template: &mut PodTemplate) {
        template.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut PodTemplate, old: &PodTemplate) {
        let changed = new.template != old.template;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(template: &PodTemplate) -> Errors {
        validate::validate_template(&template.template.clone().unwrap_or_default(), &Path::new("template"))
    }

    fn warnings(template: &PodTemplate, old: Option<&PodTemplate>) -> Vec<String> {
        let pods = template.template.as_ref().filter(|_| is_new_generation(template, old));
        pods.map(|pods| warnings::of_template(pods, &Path::new("template"))).unwrap_or_default()
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Containers"), column("Images"), column("Pod Labels")]
    }

    fn cells(template: &PodTemplate, _now: jiff::Timestamp) -> Vec<Value> {
        let [names, images] = template_cells(template.template.as_ref());
        let labels = template.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.as_ref());
        vec![name(template), names, images, format_labels(labels).into()]
    }

    fn quantities(template: &mut PodTemplate, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = template.template.as_mut().and_then(|t| t.spec.as_mut()) {
            defaults::quantities(spec, visit);
        }
    }
}
