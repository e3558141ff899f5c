{{- define "tcptrace.selector" -}}
app.kubernetes.io/name: tcptrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tcptrace.labels" -}}
{{ include "tcptrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
