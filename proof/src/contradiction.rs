//! How a signed document can contradict itself, in both languages.
//!
//! Data alone: the documents decide. Invariant: every contradiction has a sentence in each.

use std::fmt;

macro_rules! contradictions {
    ($($name:ident, $english:literal, $french:literal;)*) => {
        /// What does not hold in a document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Contradiction {
            $(#[doc = $english] $name,)*
        }

        impl Contradiction {
            /// In English.
            #[must_use]
            pub const fn english(self) -> &'static str {
                match self { $(Self::$name => $english,)* }
            }

            /// In French.
            #[must_use]
            pub const fn french(self) -> &'static str {
                match self { $(Self::$name => $french,)* }
            }
        }
    };
}

contradictions! {
    Interval, "its interval does not lie in one UTC day",
        "son intervalle ne tient pas dans un seul jour UTC";
    Ticket, "its ticket ends before it begins",
        "son ticket prend fin avant de commencer";
    TooMuchEvidence, "it lists too much evidence",
        "il énumère trop d’éléments de preuve";
    TooManyRooms, "it lists too many rooms",
        "il énumère trop de salles";
    RoomOrder, "its rooms are not in order, or one stands there twice",
        "ses salles ne sont pas dans l’ordre, ou l’une y figure deux fois";
    RoomSum, "the time of its rooms is not the sum of them",
        "le temps de ses salles n’est pas leur somme";
    TooManySilences, "it lists too many silences",
        "il énumère trop de silences";
    SilenceOrder, "its silences are not in order",
        "ses silences ne sont pas dans l’ordre";
    SilenceLength, "its silences are longer than its interval",
        "ses silences sont plus longs que son intervalle";
    SilenceSum, "the time without observation is not the sum of its silences",
        "le temps sans observation n’est pas la somme de ses silences";
    Subject, "its subject is not the pod's image",
        "son sujet n’est pas l’image du pod";
    Number, "its sequence or epoch is out of range",
        "son numéro ou son époque sort des bornes";
    Beginning, "the first record, and no other, follows nothing",
        "seul le premier enregistrement ne suit rien";
    LatestEnd, "its interval ends after the latest end of all",
        "son intervalle se termine après la dernière fin de tous";
    Count, "its numbers do not add up",
        "ses nombres ne concordent pas";
    Head, "a chain has a last line when it has a record, and only then",
        "une chaîne a une dernière ligne si elle a un enregistrement, et seulement alors";
    Validity, "it ends before it begins",
        "il prend fin avant de commencer";
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.english())
    }
}
