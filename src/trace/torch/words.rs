//! The texts of a snapshot that are looked at. All others are forgotten as they are read.

/// A text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    // Keys.
    Action,
    Addr,
    Address,
    Blocks,
    Device,
    DeviceTraces,
    ExternalAnnotations,
    HostSegments,
    HostTraces,
    Name,
    RequestedSize,
    Segments,
    Size,
    Stage,
    State,
    TimeUs,
    TotalSize,
    // What an entry's `action` is.
    Alloc,
    FreeCompleted,
    Oom,
    SegmentAlloc,
    SegmentFree,
    SegmentMap,
    SegmentUnmap,
    // What a block's `state` is: any that begins like this.
    Active,
    // What an annotation's `name` and `stage` are: names that begin like this.
    OptimizerStep,
    ZeroGrad,
    Start,
    End,
    /// Any other text.
    Other,
}

/// Texts that are known whole.
const WHOLE: [(&str, Word); 26] = [
    ("action", Word::Action),
    ("addr", Word::Addr),
    ("address", Word::Address),
    ("blocks", Word::Blocks),
    ("device", Word::Device),
    ("device_traces", Word::DeviceTraces),
    ("external_annotations", Word::ExternalAnnotations),
    ("host_segments", Word::HostSegments),
    ("host_traces", Word::HostTraces),
    ("name", Word::Name),
    ("requested_size", Word::RequestedSize),
    ("segments", Word::Segments),
    ("size", Word::Size),
    ("stage", Word::Stage),
    ("state", Word::State),
    ("time_us", Word::TimeUs),
    ("total_size", Word::TotalSize),
    ("alloc", Word::Alloc),
    ("free_completed", Word::FreeCompleted),
    ("oom", Word::Oom),
    ("segment_alloc", Word::SegmentAlloc),
    ("segment_free", Word::SegmentFree),
    ("segment_map", Word::SegmentMap),
    ("segment_unmap", Word::SegmentUnmap),
    ("START", Word::Start),
    ("END", Word::End),
];

/// Texts that are known by how they begin.
const BEGINNINGS: [(&str, Word); 3] =
    [("active_", Word::Active), ("Optimizer.step", Word::OptimizerStep), ("Optimizer.zero_grad", Word::ZeroGrad)];

impl Word {
    /// How many bytes of a text tell which word it is.
    pub(super) const BYTES_MAX: usize = 24;

    /// Returns the word of a text, of which the first bytes are given.
    pub(super) fn of(text: &[u8]) -> Self {
        let whole = WHOLE.iter().find(|(known, _)| known.as_bytes() == text);
        let known = whole.or_else(|| BEGINNINGS.iter().find(|(known, _)| text.starts_with(known.as_bytes())));
        known.map_or(Self::Other, |(_, word)| *word)
    }

    /// Returns a key's text.
    pub(super) fn text(self) -> &'static str {
        WHOLE.iter().find(|(_, word)| *word == self).map_or("?", |(text, _)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_known_by_its_text() {
        for (text, word) in WHOLE.iter().chain(&BEGINNINGS) {
            assert!(text.len() < Word::BYTES_MAX, "{text}");
            assert_eq!(Word::of(text.as_bytes()), *word);
        }
        assert_eq!(Word::of(b"Optimizer.step#SGD.step"), Word::OptimizerStep);
        assert_eq!(Word::of(b"actions"), Word::Other);
        assert_eq!((Word::RequestedSize.text(), Word::Active.text()), ("requested_size", "?"));
    }
}
