//! The words users write: MeetingCluster, MediaNode, QualificationScope.
