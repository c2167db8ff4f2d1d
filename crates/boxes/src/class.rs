use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A class index of the model, contiguous from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class as an index into per-class arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A category id of a COCO file; may start anywhere and have gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CategoryId(pub u64);

/// A class as the data set's file names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenClass")]
pub struct Class {
    /// The COCO category id.
    pub category: CategoryId,
    /// The category's name.
    pub name: String,
    /// Whether nothing belongs to it: it fills a gap between category ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    unused: Option<bool>,
}

/// A class as files hold it.
#[derive(Deserialize)]
struct WrittenClass {
    category: CategoryId,
    name: String,
    #[serde(default)]
    unused: Option<bool>,
}

impl From<WrittenClass> for Class {
    fn from(written: WrittenClass) -> Self {
        let WrittenClass {
            category,
            name,
            unused,
        } = written;
        // Files from before classes could be called that say it by the name alone.
        let unused = unused.unwrap_or(name == UNUSED);
        Self {
            unused: (unused || name == UNUSED).then_some(unused),
            category,
            name,
        }
    }
}

impl Class {
    /// The class of a category.
    pub fn new(category: CategoryId, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            unused: (name == UNUSED).then_some(false),
            category,
            name,
        }
    }

    /// A class that nothing belongs to, in the place of a category that is not there.
    fn unused(category: CategoryId) -> Self {
        Self {
            category,
            name: UNUSED.into(),
            unused: Some(true),
        }
    }
}

/// The name of a class that nothing belongs to. A file's category may be called that too.
const UNUSED: &str = "(unused)";

/// The highest category id that may be a class index.
const HIGHEST_LABEL: u64 = 10_000;

/// The classes of a model, in the order of their [`ClassId`]s: the map between the model's
/// contiguous indices and a file's category ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Class>", into = "Vec<Class>")]
pub struct ClassList {
    classes: Vec<Class>,
    by_category: HashMap<CategoryId, ClassId>,
}

impl ClassList {
    /// Sorts the classes by category id, as the peers do, and numbers them from 0.
    ///
    /// # Errors
    ///
    /// Returns an error if a category id occurs twice.
    pub fn new(mut classes: Vec<Class>) -> Result<Self, ClassListError> {
        classes.sort_by_key(|class| class.category);
        let mut by_category = HashMap::with_capacity(classes.len());
        for (index, class) in classes.iter().enumerate() {
            if by_category
                .insert(class.category, ClassId(index as u32))
                .is_some()
            {
                return Err(ClassListError::Duplicate(class.category.0));
            }
        }
        Ok(Self {
            classes,
            by_category,
        })
    }

    /// Gives every class the index that its category id is, as torchvision does: the ids in
    /// between, 0 among them, become classes that nothing belongs to.
    ///
    /// # Errors
    ///
    /// Returns an error if a category id occurs twice, or one is so high that a model would
    /// mostly tell apart what does not exist.
    pub fn by_category_id(classes: Vec<Class>) -> Result<Self, ClassListError> {
        let used = Self::new(classes)?;
        let Some(highest) = used.classes.last().map(|class| class.category.0) else {
            return Ok(used);
        };
        if highest > HIGHEST_LABEL {
            return Err(ClassListError::HighCategory(highest));
        }
        let classes = (0..=highest).map(CategoryId).map(|category| {
            let class = used
                .class(category)
                .and_then(|class| used.classes.get(class.index()));
            class.cloned().unwrap_or_else(|| Class::unused(category))
        });
        Self::new(classes.collect())
    }

    /// Whether nothing belongs to the class: it fills a gap between category ids.
    pub fn is_unused(&self, class: ClassId) -> bool {
        (self.classes.get(class.index())).is_some_and(|class| class.unused == Some(true))
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is no class at all.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The class of a COCO category, if the list has it.
    pub fn class(&self, category: CategoryId) -> Option<ClassId> {
        self.by_category.get(&category).copied()
    }

    /// The COCO category of a class, if the list has it.
    pub fn category(&self, class: ClassId) -> Option<CategoryId> {
        self.classes.get(class.index()).map(|class| class.category)
    }

    /// The name of a class; `?` where the list does not have it.
    pub fn name(&self, class: ClassId) -> &str {
        self.classes
            .get(class.index())
            .map_or("?", |class| &class.name)
    }

    /// The classes in the order of their [`ClassId`]s.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.classes
            .iter()
            .enumerate()
            .map(|(index, class)| (ClassId(index as u32), class))
    }
}

impl TryFrom<Vec<Class>> for ClassList {
    type Error = ClassListError;

    fn try_from(classes: Vec<Class>) -> Result<Self, ClassListError> {
        Self::new(classes)
    }
}

impl From<ClassList> for Vec<Class> {
    fn from(list: ClassList) -> Self {
        list.classes
    }
}

/// A name as it stands in a line of text: line breaks and other control characters are written out, as
/// files may name a class anything.
pub fn one_line(name: &str) -> String {
    let mut line = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// The classes make no [`ClassList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassListError {
    /// A category id occurs twice.
    #[error("category id {0} occurs twice")]
    Duplicate(u64),
    /// Class indices shall be category ids, and one is too high for that.
    #[error("category id {0} is too high for a class index, the highest is {HIGHEST_LABEL}")]
    HighCategory(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(category: u64, name: &str) -> Class {
        Class::new(CategoryId(category), name)
    }

    #[test]
    fn category_ids_can_be_the_indices() {
        let classes = vec![class(3, "car"), class(1, "person")];
        let list = ClassList::by_category_id(classes).unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(list.class(CategoryId(3)), Some(ClassId(3)));
        assert_eq!(list.category(ClassId(1)), Some(CategoryId(1)));
        let unused = (0..4).map(|index| list.is_unused(ClassId(index)));
        assert_eq!(unused.collect::<Vec<_>>(), [true, false, true, false]);

        assert!(ClassList::by_category_id(Vec::new()).unwrap().is_empty());
        let error = ClassList::by_category_id(vec![class(1 << 53, "far")]).unwrap_err();
        assert_eq!(error, ClassListError::HighCategory(1 << 53));
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(one_line("it's \"ü\"\n\u{1b}[1m"), "it's \"ü\"\\n\\u{1b}[1m");
    }

    #[test]
    fn gaps_in_category_ids_close_up() {
        let list = ClassList::new(vec![class(90, "toothbrush"), class(1, "person")]).unwrap();
        assert_eq!(list.class(CategoryId(1)), Some(ClassId(0)));
        assert_eq!(list.class(CategoryId(90)), Some(ClassId(1)));
        assert_eq!(list.class(CategoryId(2)), None);
        assert_eq!(list.category(ClassId(1)), Some(CategoryId(90)));
        assert_eq!(list.name(ClassId(1)), "toothbrush");
    }

    #[test]
    fn a_category_id_that_stands_twice_is_refused() {
        let error = ClassList::new(vec![class(3, "a"), class(3, "b")]).unwrap_err();
        assert_eq!(error.to_string(), "category id 3 occurs twice");
    }
}
