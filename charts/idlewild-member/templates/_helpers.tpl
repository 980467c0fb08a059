{{- define "idlewild-member.namespace" -}}
{{- if ne .Release.Namespace "idlewild-system" -}}
{{- fail "idlewild-member must be installed in the namespace idlewild-system, since invitations and roles name it; add -n idlewild-system --create-namespace" -}}
{{- end -}}
{{- .Release.Namespace -}}
{{- end -}}

{{- define "idlewild-member.labels" -}}
app.kubernetes.io/name: idlewild-member
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: idlewild
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "idlewild-member.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}
