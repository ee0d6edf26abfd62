//! [`AnyObject`]: an object whose kind is known only at run time. The API server's pipeline works on these; admission
//! plugins and strategies reach the typed struct by downcasting.

use crate::{Object, ObjectMeta};
use std::any::Any;

/// A typed built-in object or an [`crate::Unstructured`] custom resource, behind one pointer.
pub trait AnyObject: Any + Send + Sync + std::fmt::Debug {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Its JSON, beginning with `{"apiVersion":…,"kind":…,"metadata":{`.
    fn encode(&self) -> Vec<u8>;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn AnyObject>;
    /// For downcasting; prefer [`downcast_ref`].
    fn as_any(&self) -> &dyn Any;
    /// For downcasting; prefer [`downcast_mut`].
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<K: Object> AnyObject for K {
    fn meta(&self) -> &ObjectMeta {
        Object::meta(self)
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Object::meta_mut(self)
    }
    fn encode(&self) -> Vec<u8> {
        crate::Codec::encode(self)
    }
    fn boxed_clone(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Clone for Box<dyn AnyObject> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// The typed object inside, if it is a `K`.
pub fn downcast_ref<K: 'static>(object: &dyn AnyObject) -> Option<&K> {
    object.as_any().downcast_ref()
}

/// The typed object inside, to change, if it is a `K`.
pub fn downcast_mut<K: 'static>(object: &mut dyn AnyObject) -> Option<&mut K> {
    object.as_any_mut().downcast_mut()
}
