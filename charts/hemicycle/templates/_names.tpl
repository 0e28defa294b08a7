{{/* Labels of every object; the selector is a part of them that never changes. */}}
{{- define "hemicycle.selector" -}}
app.kubernetes.io/name: hemicycle-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "hemicycle.labels" -}}
{{ include "hemicycle.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{/* registry/repository:tag of (list image appVersion), or registry/repository@digest */}}
{{- define "hemicycle.image" -}}
{{- $image := index . 0 -}}
{{- if $image.registry }}{{ $image.registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (index . 1) }}{{ end }}
{{- end }}
